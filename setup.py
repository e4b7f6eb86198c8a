"""The compiled kernels and the names of their wheels; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = Path("zemosaic/photometry/_kernels")


class BuildKernels(build_ext):
    """Build the kernels if there is a compiler; a failed build leaves none of an earlier one."""

    def build_extension(self, ext: Extension) -> None:
        """Build a library, or remove it from the build folder."""
        try:
            super().build_extension(ext)
        except Exception:
            self.library(ext).unlink(missing_ok=True)
            raise

    def copy_extensions_to_source(self) -> None:
        """Copy the libraries that were built, for an editable install, and remove others."""
        super().copy_extensions_to_source()
        for ext in self.extensions:
            if not self.library(ext).exists():
                Path(self.get_ext_filename(ext.name)).unlink(missing_ok=True)

    def library(self, ext: Extension) -> Path:
        """Return the path of a library in the build folder."""
        return Path(self.build_lib, self.get_ext_filename(ext.name))

    def is_complete(self) -> bool:
        """Return whether all libraries were built."""
        return all(self.library(ext).exists() for ext in self.extensions)


class Wheel(bdist_wheel):
    """A wheel without kernels runs on every platform, and its name says so."""

    def run(self) -> None:
        """Build the package, then pack it under the name of a pure wheel if it has no kernels."""
        if not self.skip_build:
            self.run_command("build")
        if not self.get_finalized_command("build_ext").is_complete():
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
                "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden",
            ],
            py_limited_api=True,
            optional=True,  # without a compiler numpy does the work
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)  # fmt: skip
