"""Building the null GPU: a library to preload under PyTorch's CUDA build where there is no GPU.

nullcuda.c says what it does. Every other symbol that PyTorch's libraries want of cudart and cuBLAS becomes a stub that
returns 0; the list is read from the libraries that are installed, so that no release of PyTorch is named here.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TORCH_LIBRARIES = Path(torch.__file__).parent / "lib"
WANTING = ("libtorch_cuda*.so", "libc10_cuda.so", "libtorch_python.so", "libtorch_nvshmem.so")
WANTED = re.compile(r" UND (\w+)@libcu(?:dart|blas|blasLt)\.so")
OF_OTHERS = {"CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
"""Variables that say which GPU or which rank a process is."""
COMPILE = ("gcc", "-O2", "-fPIC", "-w")


def why_not() -> str | None:
    """Return why the null GPU cannot be built or must not be used here, or None."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "the null GPU is built on Linux x86-64 alone"
    if not (torch.version.cuda or "").startswith("13."):
        return f"PyTorch {torch.__version__} is no build for CUDA 13, whose calls the null GPU answers"
    if torch.cuda.is_available():
        return "there is a real GPU, which the null GPU would hide"
    missing = [tool for tool in ("gcc", "readelf", "nm") if not shutil.which(tool)]
    if missing:
        return f"{' and '.join(missing)} not found, by which the null GPU is built"
    return None if headers() else "no headers of the CUDA runtime beside PyTorch, with which the null GPU is built"


def headers() -> list[Path]:
    """Return the folders of CUDA's headers beside PyTorch: the runtime's own, and what they include of nvcc's."""
    packages = Path(torch.__file__).parents[1]
    places = [*packages.glob("nvidia/cu13/include"), packages / "triton/backends/nvidia/include"]
    names = ("cuda_runtime_api.h", "crt/host_defines.h")
    complete = all(any((place / name).is_file() for place in places) for name in names)
    return places if complete else []


def build(folder: Path) -> None:
    """Compile the library, the driver and NVML into a folder. Raises: CalledProcessError when gcc cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    run(*COMPILE, "-c", *[f"-I{place}" for place in headers()], "-o", folder / "nullcuda.o", HERE / "nullcuda.c")
    defined = {line.split()[-1] for line in run("nm", folder / "nullcuda.o").splitlines() if " T " in line}
    libraries = sorted(path for pattern in WANTING for path in TORCH_LIBRARIES.glob(pattern))
    wanted = set(WANTED.findall("".join(run("readelf", "-W", "--dyn-syms", path) for path in libraries)))
    stubs = "".join(f"int {name}() {{ return 0; }}\n" for name in sorted(wanted - defined))
    (folder / "stubs.c").write_text(stubs)
    sources = (folder / "nullcuda.o", folder / "stubs.c")
    run(*COMPILE, "-shared", "-o", folder / "libnullcuda.so", *sources, "-lpthread", "-ldl")
    for name in ("libnvidia-ml.so.1", "libcuda.so.1"):
        run(*COMPILE, "-shared", f"-Wl,-soname,{name}", "-o", folder / name, HERE / "nulldriver.c")


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of a process that is to find the null GPU."""
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    search = ":".join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    library = {"LD_PRELOAD": str(folder / "libnullcuda.so"), "LD_LIBRARY_PATH": search}
    ours = {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1"}
    rest = {name: value for name, value in os.environ.items() if name not in OF_OTHERS}
    return {**rest, **library, **one_thread, **ours}


def run(*command: str | Path) -> str:
    """Return what a command prints."""
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":  # for a look at a single case: python -m tests.null_gpu.shim FOLDER
    build(Path(sys.argv[1]))
