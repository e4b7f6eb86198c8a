/* The Python module `_fused`: functions that check and convert arguments for the kernels.

Built for the stable ABI of CPython 3.11 and without numpy's headers: arrays come through the buffer
protocol. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdio.h>
#include <string.h>

#include "arguments.h"

enum { ARGUMENTS_MAX = 24, AXES_MAX = 5, TEXT_MAX = 200 };

/* Types of arguments; a FitSummary is an array of float64 to Python. */
enum { TYPE_number, TYPE_double, TYPE_float, TYPE_Index, TYPE_FitSummary };

static const struct {
    const char *name, *formats; /* those of the buffer protocol */
    size_t bytes;
} types[] = {
    {"a number", "", 0},
    {"float64", "d", sizeof(double)},
    {"float32", "f", sizeof(float)},
    {"intp", "ilqn", sizeof(Index)},
    {"float64", "d", sizeof(double)},
};

typedef struct {
    const char *name;
    int type, written;
    int axes[AXES_MAX]; /* lengths or named axes, and 0 at the end */
} Argument;

typedef struct {
    const char *name;
    const Argument *arguments;
    Index count;
    int (*call)(const void *arguments);
} Kernel;

#define AXIS_NAME(NAME, name) #name,
static const char *const axis_names[] = {AXES(AXIS_NAME)};

/* Return the index of a named argument; `count` if there is none. The search starts at `hint`. */
static Index find_argument(const Kernel *kernel, const char *name, Index hint)
{
    for (Index i = 0; i < kernel->count; i++) {
        const Index index = (hint + i) % kernel->count;
        if (strcmp(name, kernel->arguments[index].name) == 0) return index;
    }
    return kernel->count;
}

/* Find the object of each argument, by position or by name; -1 and a TypeError on a mismatch. */
static int match(const Kernel *kernel, PyObject *args, PyObject *keywords, PyObject **objects)
{
    const Index given = PyTuple_Size(args);
    PyObject *key, *value;
    Py_ssize_t position = 0;
    Index i = given - 1;
    if (given > kernel->count) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, but %zd were given", kernel->name,
                     kernel->count, given);
        return -1;
    }
    for (Index k = 0; k < kernel->count; k++)
        objects[k] = k < given ? PyTuple_GetItem(args, k) : NULL;
    while (keywords && PyDict_Next(keywords, &position, &key, &value)) {
        const char *const name = PyUnicode_AsUTF8AndSize(key, NULL);
        if (!name) return -1;
        i = find_argument(kernel, name, i + 1); /* callers mostly keep the order */
        if (i == kernel->count || objects[i]) {
            PyErr_Format(PyExc_TypeError, "%s() got %s argument '%s'", kernel->name,
                         i == kernel->count ? "an unknown" : "two values for the", name);
            return -1;
        }
        objects[i] = value;
    }
    for (i = 0; i < kernel->count; i++)
        if (!objects[i]) {
            PyErr_Format(PyExc_TypeError, "%s() is missing the argument '%s'", kernel->name,
                         kernel->arguments[i].name);
            return -1;
        }
    return 0;
}

/* Return whether an array has the argument's axes; set the lengths of axes not known before. */
static int has_axes(const Argument *argument, const Py_buffer *view, Index *lengths)
{
    int k = 0;
    for (; argument->axes[k] && k < view->ndim; k++) {
        const int axis = argument->axes[k];
        Index *const named = axis < FIRST_AXIS ? NULL : lengths + axis - FIRST_AXIS;
        if (named && *named < 0) *named = view->shape[k];
        if (view->shape[k] != (named ? *named : axis)) return 0;
    }
    return k == view->ndim && !argument->axes[k];
}

static Index print_shape(char *text, Index end, const char *prefix, const char *name, Index length)
{
    const size_t space = (size_t)(TEXT_MAX - end);
    const int written = length < 0 ? snprintf(text + end, space, "%s%s", prefix, name)
                        : *name    ? snprintf(text + end, space, "%s%s=%td", prefix, name, length)
                                   : snprintf(text + end, space, "%s%td", prefix, length);
    return written < 0 || end + written >= TEXT_MAX ? TEXT_MAX - 1 : end + written;
}

/* Raise a ValueError that gives the expected type and shape and those of the array. */
static int mismatch(const Kernel *kernel, const Argument *argument, const Py_buffer *view,
                    const Index *lengths)
{
    char expected[TEXT_MAX] = "", found[TEXT_MAX] = "";
    Index end = 0;
    for (int k = 0; argument->axes[k]; k++) {
        const int axis = argument->axes[k], named = axis >= FIRST_AXIS;
        end = print_shape(expected, end, k ? ", " : "", named ? axis_names[axis - FIRST_AXIS] : "",
                          named ? lengths[axis - FIRST_AXIS] : axis);
    }
    end = 0;
    for (int k = 0; k < view->ndim; k++)
        end = print_shape(found, end, k ? ", " : "", "", view->shape[k]);
    PyErr_Format(PyExc_ValueError,
                 "%s: %s: expected %s of shape (%s)%s, got format %s, shape (%s)%s%s",
                 kernel->name, argument->name, types[argument->type].name, expected,
                 argument->written ? ", writable" : "", view->format ? view->format : "B", found,
                 PyBuffer_IsContiguous(view, 'C') ? "" : ", not C-contiguous",
                 argument->written && view->readonly ? ", read-only" : "");
    return -1;
}

/* Store an object in the field of its argument; -1 and an exception if it does not fit. */
static int convert(const Kernel *kernel, const Argument *argument, PyObject *object,
                   Py_buffer *view, void *field, Sizes *size)
{
    const Sizes known = *size;
    view->obj = NULL;
    if (argument->type == TYPE_number) {
        const double value = PyFloat_AsDouble(object);
        memcpy(field, &value, sizeof value);
        if (!PyErr_Occurred()) return 0;
    } else if (PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT) == 0) {
        memcpy(field, &view->buf, sizeof view->buf);
        if ((size_t)view->itemsize == types[argument->type].bytes && view->format &&
            strchr(types[argument->type].formats, *view->format) &&
            PyBuffer_IsContiguous(view, 'C') && !(argument->written && view->readonly) &&
            has_axes(argument, view, (Index *)size))
            return 0;
        return mismatch(kernel, argument, view, (const Index *)&known);
    }
    PyErr_Format(PyExc_TypeError, "%s: %s: expected %s, got %R", kernel->name, argument->name,
                 types[argument->type].name, (PyObject *)Py_TYPE(object));
    return -1;
}

/* Convert the arguments and run the kernel without the interpreter's lock. `fields` and `size` are
parts of `arguments`. */
static PyObject *run(const Kernel *kernel, PyObject *args, PyObject *keywords,
                     const void *arguments, void *const *fields, Sizes *size)
{
    Py_buffer views[ARGUMENTS_MAX];
    PyObject *objects[ARGUMENTS_MAX];
    Index converted = 0;
    int failed = match(kernel, args, keywords, objects) < 0;
    memset(size, -1, sizeof *size); /* no length is known */
    for (; !failed && converted < kernel->count; converted++)
        failed = convert(kernel, &kernel->arguments[converted], objects[converted],
                         &views[converted], fields[converted], size) < 0;
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        failed = kernel->call(arguments) < 0;
        Py_END_ALLOW_THREADS
        if (failed)
            PyErr_Format(PyExc_ValueError, "%s: the arrays do not fit together", kernel->name);
    }
    while (converted-- > 0)
        if (views[converted].obj) PyBuffer_Release(&views[converted]);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

#define READS_ROW(type, name, ...) {#name, TYPE_##type, 0, {__VA_ARGS__}},
#define WRITES_ROW(type, name, ...) {#name, TYPE_##type, 1, {__VA_ARGS__}},
#define NUMBER_ROW(name) {#name, TYPE_number, 0, {0}},
#define ARRAY_ADDRESS(type, name, ...) &a.name,
#define NUMBER_ADDRESS(name) &a.name,
#define ARRAY_NAME(type, name, ...) #name ", "
#define NUMBER_NAME(name) #name ", "

#define FUNCTION(name, Struct, ARGUMENTS)                                                      \
    static int call_##name(const void *a) { return name(a); }                                  \
    static const Argument name##_arguments[] = {ARGUMENTS(READS_ROW, WRITES_ROW, NUMBER_ROW)}; \
    typedef char name##_has_too_many_arguments                                                 \
        [sizeof name##_arguments / sizeof(Argument) <= ARGUMENTS_MAX ? 1 : -1];                \
    static const Kernel name##_kernel = {                                                      \
        #name, name##_arguments, sizeof name##_arguments / sizeof(Argument), call_##name,      \
    };                                                                                         \
    static PyObject *py_##name(PyObject *self, PyObject *args, PyObject *keywords)             \
    {                                                                                          \
        Struct a = {.size = {0}};                                                              \
        void *const fields[] = {ARGUMENTS(ARRAY_ADDRESS, ARRAY_ADDRESS, NUMBER_ADDRESS)};      \
        (void)self;                                                                            \
        return run(&name##_kernel, args, keywords, &a, fields, &a.size);                       \
    }
KERNELS(FUNCTION)

#define PYTHON_FUNCTION(name) (PyCFunction)(void (*)(void))py_##name, METH_VARARGS | METH_KEYWORDS
#define METHOD(name, Struct, ARGUMENTS) \
    {#name, PYTHON_FUNCTION(name),      \
     #name "(" ARGUMENTS(ARRAY_NAME, ARRAY_NAME, NUMBER_NAME) ")\n--\n\n"},
static PyMethodDef methods[] = {
    KERNELS(METHOD)
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_fused", NULL, 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__fused(void) { return PyModuleDef_Init(&module); }
