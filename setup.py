"""The compiled kernels; all else is in pyproject.toml."""

from setuptools import Extension, setup

FOLDER = "zemosaic/photometry/_kernels"

PARTS = ("module", "sky", "sample", "blocks", "scene", "fit")

setup(
    ext_modules=[
        Extension(
            "zemosaic.photometry._kernels._fused",
            [f"{FOLDER}/{part}.c" for part in PARTS],
            depends=[f"{FOLDER}/kernels.h"],
            # Loops in vectors, and the same bits wherever: nothing that reorders sums or fuses
            # products. For gcc and clang; MSVC passes over what it does not know.
            extra_compile_args=[
                "-O2", "-ftree-vectorize", "-fvect-cost-model", "-fno-math-errno",
                "-fno-trapping-math", "-ffp-contract=off",
            ],
            py_limited_api=True,
            optional=True,  # without a compiler numpy does the work
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)  # fmt: skip
