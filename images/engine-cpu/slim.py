"""Removes from a site-packages folder what an engine never opens: debug sections, headers, tests, CUDA's halves.

`python slim.py SITE_PACKAGES`; what links to a removed library is stub.py's concern.
"""

import shutil
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_LIBRARIES = ("libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_nvshmem.so", "libcaffe2_nvrtc.so")
_FOLDERS = ("torch/include", "torch/share", "torch/test", "functorch/_src/test", "torchgen/packaged")
_TESTS = ("tests", "test")
_SUFFIXES = (".a", ".pyi", ".pyx", ".pxd", ".h", ".hpp", ".cu", ".cuh", ".cpp", ".lib")


def main(folder: Path) -> None:
    before = _size(folder)
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in _LIBRARIES:
        (folder / "torch/lib" / name).unlink(missing_ok=True)
    # torch refuses to start without this one program; the others beside it are its tests.
    for path in _files((folder / "torch/bin").glob("*")):
        if path.name != "torch_shm_manager":
            path.unlink()
    # torch.testing and the like are imported, so only folders that are exactly a package's tests go.
    for path in [each for each in folder.rglob("test*") if each.name in _TESTS and each.is_dir()]:
        shutil.rmtree(path, ignore_errors=True)
    for path in _files(folder.rglob("*")):
        if path.suffix in _SUFFIXES:
            path.unlink()
        elif ".so" in path.suffixes:
            cut_debug_sections(path)
    print(f"{folder}: {before >> 20} MiB before, {_size(folder) >> 20} MiB after")


def cut_debug_sections(path: Path) -> None:
    """Cut an ELF library behind its last segment: all that follows is for linkers and debuggers."""
    content = path.read_bytes()
    if content[:6] != b"\x7fELF\x02\x01":
        return
    (table,) = struct.unpack_from("<Q", content, 32)
    (count,) = struct.unpack_from("<H", content, 56)
    segments = [struct.unpack_from("<IIQQQQ", content, table + 56 * index) for index in range(count)]
    end = max([table + 56 * count, *(segment[2] + segment[5] for segment in segments)])
    if end >= len(content):
        return
    header = bytearray(content[:64])
    header[40:48] = bytes(8)  # where the sections' table is
    header[60:64] = bytes(4)  # how many sections there are, and which one names them
    path.write_bytes(bytes(header) + content[64:end])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder.rglob("*")))


def _files(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_file() and not path.is_symlink()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
