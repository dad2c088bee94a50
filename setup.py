"""Builds the native forms if there is a compiler; all else is in setup.cfg."""

import importlib.util
import os
import pathlib
import shutil
import subprocess

import setuptools
from setuptools.command import build_ext

SOURCES = ["harmonrank_jax/ordering/native.cc",
           "harmonrank_jax/diversity/native.cc"]
HEADERS = ["harmonrank_jax/workers.h", "harmonrank_jax/diversity/passes.h"]
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fno-math-errno",
         "-fno-trapping-math")


class BuildNative(build_ext.build_ext):
  """Builds the native forms, or nothing: the library works without it."""

  def build_extension(self, ext):
    compilers = os.environ.get("CXX", "c++ g++ clang++").split()
    compiler = next(filter(None, map(shutil.which, compilers)), None)
    # The headers of XLA's foreign function interface lie inside jaxlib.
    jaxlib = importlib.util.find_spec("jaxlib")
    if compiler is None or jaxlib is None:
      return
    target = pathlib.Path(self.get_ext_fullpath(ext.name))
    target.parent.mkdir(parents=True, exist_ok=True)
    include = pathlib.Path(jaxlib.origin).parent / "include"
    built = subprocess.run(
        [compiler, *FLAGS, f"-isystem{include}", *ext.sources, "-o", target],
        check=False)
    if built.returncode:
      self.warn("the native forms do not compile here and are left out")


setuptools.setup(
    ext_modules=[setuptools.Extension(
        "harmonrank_jax._native", SOURCES, depends=HEADERS, optional=True)],
    cmdclass={"build_ext": BuildNative})
