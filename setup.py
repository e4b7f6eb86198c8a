"""The compiled kernels and the names of their wheels; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = Path("zemosaic/photometry/_kernels")


class BuildKernels(build_ext):
    """Build the kernels if there is a compiler; a failed build leaves none of an earlier one."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception:
            self.remove_built(ext)
            raise

    def remove_built(self, ext: Extension) -> None:
        for folder in (Path(self.build_lib), Path()):
            (folder / self.get_ext_filename(ext.name)).unlink(missing_ok=True)

    def is_built(self) -> bool:
        return all(Path(path).exists() for path in self.get_outputs())


class Wheel(bdist_wheel):
    """A wheel without kernels runs on every platform, and its name says so."""

    def run(self) -> None:
        if not self.skip_build:
            self.run_command("build")
        if not self.get_finalized_command("build_ext").is_built():
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()


setup(
    ext_modules=[
        Extension(
            "zemosaic.photometry._kernels._fused",
            [str(path) for path in sorted(FOLDER.glob("*.c"))],
            depends=[str(path) for path in sorted(FOLDER.glob("*.h"))],
            # Vectorized loops, but nothing that reorders sums or fuses products, so that results
            # have the same bits everywhere. For gcc and clang; MSVC ignores options unknown to it.
            extra_compile_args=[
                "-O2", "-ftree-vectorize", "-fvect-cost-model", "-fno-math-errno",
                "-fno-trapping-math", "-ffp-contract=off",
            ],
            py_limited_api=True,
            optional=True,  # without a compiler numpy does the work
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)  # fmt: skip
