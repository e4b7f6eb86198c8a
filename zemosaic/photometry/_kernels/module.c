/* The compiled kernels as a module of Python, and the algebra that they share (regression.py).

Built for the stable interface of CPython 3.11 and without the headers of numpy: arrays come
through the buffer protocol. */

#include "kernels.h"

double most(double a, double b) { return a > b ? a : b; }

double ranked(double *z, Index n, Index rank)
{ /* Quickselect, without branches that would have to be guessed; z is left in another order. */
    Index low = 0, high = n;
    while (high - low > 1) {
        const double a = z[low], b = z[(low + high) / 2], c = z[high - 1];
        const double pivot = a < b ? (b < c ? b : most(a, c)) : (a < c ? a : most(b, c));
        Index j = low;
        for (Index i = low; i < high; i++) {
            const double one = z[i];
            z[i] = z[j];
            z[j] = one;
            j += one < pivot;
        }
        if (j > low) {
            if (rank < j) high = j;
            else low = j;
            continue;
        }
        for (Index i = low; i < high; i++) { /* None is smaller: first those that are equal. */
            const double one = z[i];
            z[i] = z[j];
            z[j] = one;
            j += !(one > pivot);
        }
        if (rank < j) return pivot;
        low = j;
    }
    return z[rank];
}

Index thinned(Index n, Index *step)
{ /* regression.thin: how many of n, an odd number, and how far apart. */
    *step = n > SAMPLE ? (n + SAMPLE - 1) / SAMPLE : 1;
    return ((n + *step - 1) / *step - 1) | 1;
}

double median(const double *z, Index n)
{ /* Of a sample. */
    double some[SAMPLE + 1];
    Index step, count = thinned(n, &step);
    for (Index k = 0; k < count; k++) some[k] = z[k * step];
    return ranked(some, count, count / 2);
}

double robust_scale(const double *square, Index n)
{
    const double scale = sqrt(median(square, n)) / 0.6745;
    return scale > 0 ? scale : 1.0;
}

void dots(const double *const p[3], const double *const q[3], Index n, double out[9])
{ /* Three vectors by three others, each sum in two lanes: what fills the vector units. */
    const double *const a = p[0], *const b = p[1], *const c = p[2];
    const double *const d = q[0], *const e = q[1], *const f = q[2];
    double s[9][2] = {{0}};
    Index i = 0;
    for (; i + 2 <= n; i += 2)
        for (int l = 0; l < 2; l++) {
            s[0][l] += a[i + l] * d[i + l];
            s[1][l] += a[i + l] * e[i + l];
            s[2][l] += a[i + l] * f[i + l];
            s[3][l] += b[i + l] * d[i + l];
            s[4][l] += b[i + l] * e[i + l];
            s[5][l] += b[i + l] * f[i + l];
            s[6][l] += c[i + l] * d[i + l];
            s[7][l] += c[i + l] * e[i + l];
            s[8][l] += c[i + l] * f[i + l];
        }
    for (int k = 0; k < 9; k++) {
        out[k] = s[k][0] + s[k][1];
        if (i < n) out[k] += p[k / 3][i] * q[k % 3][i];
    }
}

void products(const double *z, const double *w, int k, Index n, double *work, double *gram)
{ /* Weighted, of the k rows of z, three by three; `work` has room for three of them. */
    const double *const p[3] = {work, work + n, work + 2 * n};
    for (int i = 0; i < k; i += 3) {
        for (int l = 0; l < 3; l++)
            for (Index m = 0; m < n; m++)
                work[l * n + m] = w[m] * z[(i + l < k ? i + l : i) * n + m];
        for (int j = i; j < k; j += 3) {
            const double *q[3];
            double sum[9];
            for (int l = 0; l < 3; l++) q[l] = z + (j + l < k ? j + l : j) * n;
            dots(p, q, n, sum);
            for (int l = 0; l < 9; l++) {
                const int row = i + l / 3, column = j + l % 3;
                if (row < k && column < k) gram[row * k + column] = gram[column * k + row] = sum[l];
            }
        }
    }
}

void solve(double *matrix, double *right, int n, int k)
{ /* regression.solved: n by n; `right`, with k columns, becomes the solution. */
    double scale[COLUMNS];
    for (int i = 0; i < n; i++) scale[i] = 1 / sqrt(matrix[i * n + i] + 1e-300);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) matrix[i * n + j] *= scale[i] * scale[j];
        for (int j = 0; j < k; j++) right[i * k + j] *= scale[i];
        matrix[i * n + i] += 1e-12;
    }
    /* Positive definite, so no pivots need be sought. */
    for (int p = 0; p < n; p++)
        for (int i = p + 1; i < n; i++) {
            const double part = matrix[i * n + p] / matrix[p * n + p];
            for (int j = p + 1; j < n; j++) matrix[i * n + j] -= part * matrix[p * n + j];
            for (int j = 0; j < k; j++) right[i * k + j] -= part * right[p * k + j];
        }
    for (int i = n - 1; i >= 0; i--)
        for (int j = 0; j < k; j++) {
            double *const one = right + i * k + j;
            for (int p = i + 1; p < n; p++) *one -= matrix[i * n + p] * right[p * k + j];
            *one /= matrix[i * n + i];
        }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < k; j++) right[i * k + j] *= scale[i];
}

void line(const double *gram, int k, int terms, int held, double slope, double *found)
{ /* regression.line, of one channel */
    double m[TERMS * TERMS], r[TERMS * 3];
    for (int i = 0; i < terms; i++) {
        for (int j = 0; j < terms; j++) m[i * terms + j] = gram[(3 + i) * k + 3 + j];
        for (int j = 0; j < 3; j++) r[i * 3 + j] = gram[(3 + i) * k + j];
    }
    solve(m, r, terms, 3);
    if (!held) {
        double left[2] = {gram[2 * k], gram[2 * k + 1]};
        for (int i = 0; i < terms; i++)
            for (int j = 0; j < 2; j++) left[j] -= gram[2 * k + 3 + i] * r[i * 3 + j];
        slope = left[1] / (left[0] == 0 ? HUGE_VAL : left[0]);
    }
    for (int i = 0; i < 2 * k; i++) found[i] = 0;
    found[0] = -slope;
    found[1] = found[k + 2] = 1;
    for (int i = 0; i < terms; i++) {
        found[3 + i] = slope * r[i * 3] - r[i * 3 + 1];
        found[k + 3 + i] = -r[i * 3 + 2];
    }
}

/* Signatures: of each argument its kind (n a number; d, f, i arrays of float64, float32 and intp;
in capitals those that are written) and its axes, where a letter stands for one length. */
#define PAIR "f7cab fcde fcde f7cgh fcjk fcjk i8 i9 "
#define KERNELS(each)                                                                     \
    each(shared_areas, "dpk3 dt43 in in Dn")                                               \
    each(sample_spline, "fphw d2mn Fpab Fab F8b D3b")                                          \
    each(gather_blocks, PAIR "D52cn D2n D2cn Dn Dn D2 n n n n")                               \
    each(block_weights, "D52cn d2cn dn D2c1 Dn Dn n n")                                         \
    each(planes, "dcr dcr dr dr ir D32c1 Dr")                                             \
    each(gather_cells, PAIR "il D52cq D2q Iq I1 n")                                           \
    each(design_matrix, "dcb dcb d32cb d2cr db db dc db ib d42cf d2f if d2c1 d32c1 Dckr D2b "     \
         "D6hw n n n d22")                                                                \
    each(initial_slope, "dcr dcr dcr dcr dr dr ir d32c1 Dc D2cr D6r D8c n n n n n")         \
    each(fit_irls, "Dckr dcr dcr if Dc Dcr Dckk Dc2k Dc Dc Dc Dc Dcr D6r d3 n n n n")   \
    each(summarize_fit, "dcb dcb db db ir dckr dcr dckk dc2k dc dc D5p D5p D4r Dcs n n n n")

enum { MOST_ARGS = 24 };

static int fits(const char *axes, const Py_buffer *view, Index *size)
{
    int k = 0;
    for (; axes[k] && axes[k] != ' ' && k < view->ndim; k++) {
        const int letter = axes[k] - 'a';
        if (letter >= 0 && size[letter] < 0) size[letter] = view->shape[k];
        if (view->shape[k] != (letter >= 0 ? size[letter] : axes[k] - '0')) return 0;
    }
    return k == view->ndim && (!axes[k] || axes[k] == ' ');
}

static int taken(const char *sign, PyObject *given, Py_buffer *view, Arg *arg, Index *size)
{ /* An argument with that signature; -1 and an exception where it is something else. */
    view->obj = NULL;
    if (*sign == 'n') {
        arg->n = PyFloat_AsDouble(given);
        return PyErr_Occurred() ? -1 : 0;
    }
    const char kind = *sign < 'a' ? (char)(*sign - 'A' + 'a') : *sign;
    const char *const formats = kind == 'i' ? "ilqn" : kind == 'f' ? "f" : "d";
    const size_t bytes = kind == 'i' ? sizeof(Index) : kind == 'f' ? sizeof(float) : sizeof(double);
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (*sign == kind ? 0 : PyBUF_WRITABLE);
    if (PyObject_GetBuffer(given, view, flags) < 0) return -1;
    if ((size_t)view->itemsize == bytes && view->format && strchr(formats, *view->format) &&
        fits(sign + 1, view, size)) {
        arg->D = view->buf;
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "an array does not fit the kernel: %s", sign);
    return -1;
}

static PyObject *run(Kernel *kernel, const char *signs, PyObject *args)
{
    Py_buffer views[MOST_ARGS];
    Arg a[MOST_ARGS];
    Index size[26], k = 0, given = PyTuple_Size(args);
    int failed = 0;
    for (int i = 0; i < 26; i++) size[i] = -1;
    for (const char *sign = signs; sign && !failed; k++) {
        if (k == given) {
            PyErr_SetString(PyExc_TypeError, "an argument is missing");
            failed = 1;
            break;
        }
        failed = taken(sign, PyTuple_GetItem(args, k), &views[k], &a[k], size) < 0;
        sign = strchr(sign, ' ');
        sign = sign ? sign + 1 : NULL;
    }
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        failed = kernel(a, size) < 0;
        Py_END_ALLOW_THREADS
        if (failed) PyErr_SetString(PyExc_ValueError, "the arrays do not fit together");
    }
    while (k-- > 0)
        if (views[k].obj) PyBuffer_Release(&views[k]);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

#define FUNCTION(name, signs)                                  \
    static PyObject *py_##name(PyObject *self, PyObject *args) \
    {                                                          \
        (void)self;                                            \
        return run(name, signs, args);                         \
    }
KERNELS(FUNCTION)

#define METHOD(name, signs) {#name, py_##name, METH_VARARGS, NULL},
static PyMethodDef methods[] = {KERNELS(METHOD){NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_fused", NULL, 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__fused(void) { return PyModuleDef_Init(&module); }
