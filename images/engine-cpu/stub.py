"""Stands in for the CUDA libraries that PyPI's build of torch links and a CPU never calls.

`python stub.py SITE_PACKAGES PACKAGE...` looks at every shared library of the packages, finds the libraries that some
of them link and nothing provides, and makes one small library that answers to all those names and defines all the
symbols looked for. 3 GB of libraries become a few kilobytes. Each C function in it returns 100, which is CUDA's "no device".
Each C++ function returns the address of zeros, because torch calls some while it is loaded that return a reference;
each constructor also gives its object a table of virtual functions that do nothing.
"""

import ctypes
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_PAIR = struct.Struct("<QQ")
_RELOCATION = struct.Struct("<QQq")

_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_READ, _WRITE, _EXECUTE = 4, 2, 1
_DT_NULL, _DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_RELA = 0, 1, 4, 5, 6, 7
_DT_RELASZ, _DT_RELAENT, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 8, 9, 10, 11, 14
_DT_VERSYM, _DT_VERDEF, _DT_VERDEFNUM, _DT_VERNEED, _DT_VERNEEDNUM = (
    0x6FFFFFF0,
    0x6FFFFFFC,
    0x6FFFFFFD,
    0x6FFFFFFE,
    0x6FFFFFFF,
)
_GLOBAL_FUNCTION, _GLOBAL_OBJECT, _WEAK = 0x12, 0x11, 2
_PAGE = 0x10000  # the largest page size of the architectures below

_X86_64, _AARCH64 = 62, 183
_CONSTRUCTOR = re.compile(r"^_ZN.*C[12]E")
_ABSENT_TYPE = "_ZTI6absent"
_VIRTUAL_FUNCTIONS = 32
_RELATIVE = {_X86_64: 8, _AARCH64: 1027}

# What the C and C++ runtimes, the interpreter and Debian packages provide, and so is not ours to stand in for.
_SYSTEM = ("ld-linux", "libc.so", "libm.so", "libdl.so", "librt.so", "libpthread.so", "libgcc_s.so", "libstdc++.so")
_SYSTEM_ALSO = ("libnuma.so", "libutil.so", "libz.so", "libpython")


@dataclass(frozen=True, slots=True)
class Library:
    """What a shared library links, defines, and looks for without being content to miss it."""

    path: Path
    machine: int
    needed: frozenset[str]
    defined: frozenset[str]
    sought: Mapping[str, str]
    """Each symbol with the version that it must have; empty where any will do."""


def parse_library(path: Path) -> Library | None:
    """Read a 64-bit little-endian ELF library; None for any other file."""
    content = path.read_bytes()
    if content[:6] != b"\x7fELF\x02\x01":
        return None
    header = _HEADER.unpack_from(content)
    segments = [_SEGMENT.unpack_from(content, header[5] + i * header[9]) for i in range(header[10])]
    loads = [(each[3], each[2], each[5]) for each in segments if each[0] == _PT_LOAD]

    def offset(address: int) -> int:
        return next(int(address - start + at) for start, at, size in loads if start <= address < start + size)

    dynamic = next((each for each in segments if each[0] == _PT_DYNAMIC), None)
    if dynamic is None:
        return None
    entries = [_PAIR.unpack_from(content, dynamic[2] + i) for i in range(0, dynamic[5], _PAIR.size)]
    tags = dict(entries)
    if _DT_SYMTAB not in tags:
        return None
    strings, symbols = offset(tags[_DT_STRTAB]), offset(tags[_DT_SYMTAB])

    def text(index: int) -> str:
        return content[strings + index : content.index(b"\0", strings + index)].decode()

    # No tag tells the number of symbols; in every linker's layout the strings follow the symbols.
    end = strings if strings > symbols else offset(tags[_DT_HASH])
    versions = _needed_versions(content, offset(tags[_DT_VERNEED]), tags[_DT_VERNEEDNUM]) if _DT_VERNEED in tags else {}
    defined: set[str] = set()
    sought: dict[str, str] = {}
    for index, at in enumerate(range(symbols + _SYMBOL.size, end - _SYMBOL.size + 1, _SYMBOL.size), start=1):
        name, info, _, section, _, _ = _SYMBOL.unpack_from(content, at)
        if name >= tags[_DT_STRSZ]:
            break
        if section:
            defined.add(text(name))
        elif info >> 4 != _WEAK:
            (version,) = struct.unpack_from("<H", content, offset(tags[_DT_VERSYM]) + 2 * index) if versions else (0,)
            sought[text(name)] = text(versions[version]) if version in versions else ""
    needed = {text(value) for tag, value in entries if tag == _DT_NEEDED}
    return Library(path, header[2], frozenset(needed), frozenset(defined), sought)


def missing_names(libraries: list[Library]) -> set[str]:
    """Libraries that are linked by name, and are neither in the folder nor the system's."""
    present = {library.path.name for library in libraries}
    linked = set[str]().union(*(library.needed for library in libraries))
    return {name for name in linked - present if not name.startswith((*_SYSTEM, *_SYSTEM_ALSO))}


def missing_symbols(libraries: list[Library], missing: set[str]) -> dict[str, str]:
    """Symbols that only a missing library can have been meant to define."""
    by_name = {library.path.name: library for library in libraries}
    runtime = _runtime_symbols()

    def reached(library: Library, seen: set[str]) -> set[str]:
        for name in library.needed & by_name.keys() - seen:
            seen.add(name)
            reached(by_name[name], seen)
        return seen

    symbols: dict[str, str] = {}
    for library in libraries:
        closure = reached(library, {library.path.name})
        if any(by_name[name].needed & missing for name in closure):
            defined = set[str]().union(*(by_name[name].defined for name in closure))
            symbols |= {
                name: library.sought[name]
                for name in library.sought.keys() - defined - runtime
                if not name.startswith(("Py", "_Py"))
            }
    return symbols


def render_library(name: str, symbols: Mapping[str, str], machine: int) -> bytes:
    """Write a shared library whose functions all return 100 and whose objects are all zero.

    Type information is the exception: it needs a name, because the runtime compares types by name.
    """
    ordered = sorted({*symbols, _ABSENT_TYPE})
    versions = [name, *sorted({version for version in symbols.values() if version})]
    texts = (*versions, *ordered)
    strings = b"\0" + b"".join(each.encode() + b"\0" for each in texts)
    places = dict(zip(texts, _starts(texts), strict=True))
    types = [each for each in ordered if each.startswith("_ZTI")]

    at_hash = _HEADER.size + 5 * _SEGMENT.size
    hashes = _hash_table(ordered)
    at_symbols = _align(at_hash + len(hashes), 16)
    at_strings = at_symbols + _SYMBOL.size * (len(ordered) + 1)
    definitions = _version_definitions(versions, places)
    at_definitions = _align(at_strings + len(strings), 16)
    # Index 0 is the null symbol's; version 1 is the library's own name and stands for "any".
    numbers = [0, *(versions.index(symbols[each]) + 1 if symbols.get(each) else 1 for each in ordered)]
    at_numbers = at_definitions + len(definitions)
    at_relocations = _align(at_numbers + 2 * len(numbers), 16)
    at_code = _align(at_relocations + _RELOCATION.size * (len(types) + 1 + _VIRTUAL_FUNCTIONS), 16)
    at_dynamic = _align(at_code + 48, _PAGE)
    at_types = at_dynamic + 16 * _PAIR.size
    type_places = {each: at_types + 32 * index for index, each in enumerate(types)}
    # The pointer in an object goes to the first function; offset and type come before it.
    at_virtual = at_types + 32 * len(types) + 16
    at_zeros = _align(at_virtual + 8 * _VIRTUAL_FUNCTIONS, 4096)
    at_address, at_construct = at_code + 16, at_code + 32
    code = (
        _return_no_device(machine).ljust(16, b"\0")
        + _return_address(machine, at_zeros - at_address).ljust(16, b"\0")
        + _construct(machine, at_virtual - at_construct).ljust(16, b"\0")
    )

    table = bytearray(_SYMBOL.size)
    for each in ordered:
        if each.startswith(("_ZTV", "_ZTI", "_ZTS", "_ZTT", "_ZGV")):
            table += _SYMBOL.pack(places[each], _GLOBAL_OBJECT, 0, 1, type_places.get(each, at_zeros), 64)
        else:
            at = at_construct if _CONSTRUCTOR.match(each) else at_address if each.startswith("_Z") else at_code
            table += _SYMBOL.pack(places[each], _GLOBAL_FUNCTION, 0, 1, at, 16)
    # The mangled name of a type is its information's symbol less the prefix, and the strings have that already.
    pointers = {type_places[each] + 8: at_strings + places[each] + len("_ZTI") for each in types}
    pointers[at_virtual - 8] = type_places[_ABSENT_TYPE]
    pointers |= dict.fromkeys(range(at_virtual, at_virtual + 8 * _VIRTUAL_FUNCTIONS, 8), at_address)
    relocations = b"".join(_RELOCATION.pack(at, _RELATIVE[machine], to) for at, to in pointers.items())
    dynamic = b"".join(
        _PAIR.pack(*pair)
        for pair in (
            (_DT_SONAME, places[name]),
            (_DT_HASH, at_hash),
            (_DT_STRTAB, at_strings),
            (_DT_SYMTAB, at_symbols),
            (_DT_STRSZ, len(strings)),
            (_DT_SYMENT, _SYMBOL.size),
            (_DT_VERSYM, at_numbers),
            (_DT_VERDEF, at_definitions),
            (_DT_VERDEFNUM, len(versions)),
            (_DT_RELA, at_relocations),
            (_DT_RELASZ, len(relocations)),
            (_DT_RELAENT, _RELOCATION.size),
            (_DT_NULL, 0),
        )
    )
    size_of_data = at_zeros - at_dynamic
    segments = (
        _SEGMENT.pack(_PT_LOAD, _READ | _EXECUTE, 0, 0, 0, at_code + len(code), at_code + len(code), _PAGE),
        _SEGMENT.pack(
            _PT_LOAD, _READ | _WRITE, at_dynamic, at_dynamic, at_dynamic, size_of_data, size_of_data + 65536, _PAGE
        ),
        _SEGMENT.pack(_PT_DYNAMIC, _READ | _WRITE, at_dynamic, at_dynamic, at_dynamic, len(dynamic), len(dynamic), 8),
        _SEGMENT.pack(_PT_GNU_STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16),
    )
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = _HEADER.pack(identity, 3, machine, 1, 0, _HEADER.size, 0, 0, _HEADER.size, 56, len(segments), 64, 0, 0)

    image = bytearray(at_zeros)
    for at, part in (
        (0, header + b"".join(segments)),
        (at_hash, hashes),
        (at_symbols, bytes(table)),
        (at_strings, strings),
        (at_definitions, definitions),
        (at_numbers, struct.pack(f"<{len(numbers)}H", *numbers)),
        (at_relocations, relocations),
        (at_code, code),
        (at_dynamic, dynamic),
    ):
        image[at : at + len(part)] = part
    return bytes(image)


def main(folder: Path, packages: list[str]) -> None:
    files = (path for package in packages for path in (folder / package).rglob("*.so*") if path.is_file())
    libraries = [found for path in files if (found := parse_library(path))]
    missing = missing_names(libraries)
    if not missing:
        return
    symbols = missing_symbols(libraries, missing)
    stub = folder / "torch/lib/libabsent.so"
    stub.write_bytes(render_library(stub.name, symbols, libraries[0].machine))
    for name in sorted(missing):
        (stub.parent / name).symlink_to(stub.name)
    print(f"{stub}: {len(symbols)} symbols for {', '.join(sorted(missing))}")


def _return_no_device(machine: int) -> bytes:
    if machine == _X86_64:
        return b"\xb8\x64\x00\x00\x00\xc3"  # mov eax, 100; ret
    return struct.pack("<II", 0xD2800C80, 0xD65F03C0)  # mov x0, 100; ret


def _return_address(machine: int, distance: int) -> bytes:
    """Return an address at a distance from this code; its last byte is zero, so that a truth value reads as false."""
    if machine == _X86_64:
        return b"\x48\x8d\x05" + struct.pack("<i", distance - 7) + b"\xc3"  # lea rax, [rip + distance]; ret
    return struct.pack("<II", 0x10000000 | (distance & 3) << 29 | (distance >> 2) << 5, 0xD65F03C0)  # adr x0; ret


def _construct(machine: int, distance: int) -> bytes:
    """Store an address at a distance from this code where the first argument points."""
    if machine == _X86_64:
        return b"\x48\x8d\x05" + struct.pack("<i", distance - 7) + b"\x48\x89\x07\xc3"  # lea rax; mov [rdi], rax; ret
    address = 0x10000001 | (distance & 3) << 29 | (distance >> 2) << 5
    return struct.pack("<III", address, 0xF9000001, 0xD65F03C0)  # adr x1; str x1, [x0]; ret


def _needed_versions(content: bytes, at: int, count: int) -> dict[int, int]:
    """Map each version's number to the place of its name among the strings."""
    found: dict[int, int] = {}
    for _ in range(count):
        _, names, _, first, following = struct.unpack_from("<HHIII", content, at)
        each = at + first
        for _ in range(names):
            _, _, number, name, next_name = struct.unpack_from("<IHHII", content, each)
            found[number & 0x7FFF] = name
            each += next_name
        at += following
    return found


def _version_definitions(versions: list[str], places: Mapping[str, int]) -> bytes:
    """Define each version with one name; the first is the library itself."""
    size = 28
    return b"".join(
        struct.pack(
            "<HHHHIII", 1, 1 if index == 1 else 0, index, 1, _hash(version), 20, size if index < len(versions) else 0
        )
        + struct.pack("<II", places[version], 0)
        for index, version in enumerate(versions, start=1)
    )


def _hash_table(names: list[str]) -> bytes:
    """Write the System V hash table, whose index 0 is the null symbol."""
    buckets = [0] * max(1, len(names))
    chain = [0] * (len(names) + 1)
    for index, name in enumerate(names, start=1):
        bucket = _hash(name) % len(buckets)
        chain[index], buckets[bucket] = buckets[bucket], index
    return struct.pack(f"<{2 + len(buckets) + len(chain)}I", len(buckets), len(chain), *buckets, *chain)


def _hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value


def _starts(names: Iterable[str]) -> Iterator[int]:
    start = 1
    for name in names:
        yield start
        start += len(name.encode()) + 1


def _align(value: int, to: int) -> int:
    return -(-value // to) * to


def _runtime_symbols() -> set[str]:
    """Find what the interpreter and the system's libraries, as loaded into this process, define."""
    for name in ("libstdc++.so.6", "libm.so.6", "libnuma.so.1"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    found = [parse_library(path) for path in map(Path, mapped) if path.is_file()]
    return set[str]().union(*(library.defined for library in found if library))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
