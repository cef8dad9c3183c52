#!/usr/bin/env python3
"""Holds the plan of the house as data and fails on whatever breaks it.

    tests/check_layers.py [--root DIR] [--lib libtutti.so] [--archive libtutti_internal.a]

Checks: who includes whom, header cycles, foreign headers outside their home, the environment read
outside the settings table, files and functions past their limit, macros that jump, notes left for
later; with --lib, exported symbols without their prefix and hidden mutable globals; with
--archive, internal functions without their room's prefix. Each check is one test; every finding is
one line, and the closing line counts. Needs nothing but Python 3 and, for symbols, binutils.
"""
import argparse
import fnmatch
import os
import re
import subprocess
import sys

# ---- the table -----------------------------------------------------------------------------------

# Rooms: first match wins. What a room may include is a list of globs over paths in the project; a
# room may always include its own files unless OWN_DENIED says otherwise.
ROOMS = [
    ("compat", ["src/compat/*"], ["include/*"]),
    ("mpi tests", ["tests/mpi/*"], ["include/*"]),
    ("tests", ["tests/*"], ["*"]),
    ("examples", ["examples/*"], ["include/*"]),
    ("perf", ["perf/*"], ["include/*", "algorithms/*.h", "transports/transport.h", "src/planner.h",
                          "src/topology.h", "src/base/*.h"]),
    ("base", ["src/base/*"], ["include/tutti/*"]),
    ("mem", ["src/mem/*"], ["include/tutti/*", "src/base/*.h"]),
    ("algorithms", ["algorithms/*"], ["include/tutti/*", "src/base/status.h", "src/base/spans.h",
                                      "src/base/check.h"]),
    ("transports", ["transports/*"], ["include/tutti/*", "src/base/*.h", "src/mem/mem.h",
                                      "src/mem/pace.h", "src/mem/reduce.h"]),
    ("core", ["src/*"], ["include/tutti/*", "src/base/*.h", "src/mem/*.h", "algorithms/*.h",
                         "transports/transport.h", "src/*.h"]),
    ("public", ["include/*"], []),
]

# Inside the core: each may include those after it. A file belongs to the module whose word is the
# first part of its name (comm_build.c: comm). The .c files of one level may include each other's
# headers (execution works on the communicator's state); headers keep the order within it too.
CORE_ORDER = [["api"], ["stream", "group", "comm", "exec", "program", "stage", "call"], ["planner"], ["regcache"],
              ["bootstrap"], ["topology"]]

# Foreign headers and their only homes.
FOREIGN = [
    ("hwloc.h", ["src/topology_probe.c"]),
    ("hwloc/*", ["src/topology_probe.c"]),
    ("infiniband/*", ["transports/verbs/*"]),
    ("rdma/*", ["transports/verbs/*"]),
    ("cuda*.h", ["src/mem/mem_cuda*", "src/compat/nccl.h"]),
    ("nvml.h", ["src/mem/mem_cuda*"]),
    ("nccl.h", ["src/compat/nccl*", "tests/nccl_facts.c", "examples/nccl.c"]),
    ("mpi.h", ["tests/mpi/*", "examples/*", "src/compat/mpi*", "perf/launch*", "perf/peer*"]),
    ("gloo/*", ["perf/peer_gloo.cpp"]),
    ("openssl/*", ["src/base/auth.c", "src/base/seal.c", "src/base/crypto.c", "tests/test_auth.c"]),
    ("pmix.h", ["src/bootstrap_pmix.c"]),
    ("torch/*", ["src/compat/torch*", "src/compat/*/torch*"]),
    ("CUnit/*", ["tests/*"]),
    ("immintrin.h", ["src/mem/*"]),
    ("emmintrin.h", ["src/mem/*"]),
    ("x86intrin.h", ["src/mem/*"]),
    ("cpuid.h", ["src/mem/*"]),
    ("arm_neon.h", ["src/mem/*"]),
    ("arm_sve.h", ["src/mem/*"]),
]

C_LIBRARY = set("""assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp
signal stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath
threads time uchar wchar wctype""".split())

# What the pure rooms may take from the C library: no clock, no signals, no threads.
PURE = {"algorithms": C_LIBRARY - {"signal", "time", "threads", "locale", "setjmp"}}

SYSTEM = ["sys/*", "net/*", "netinet/*", "arpa/*", "linux/*", "asm/*", "unistd.h", "fcntl.h",
          "poll.h", "pthread.h", "sched.h", "dlfcn.h", "netdb.h", "ifaddrs.h", "getopt.h",
          "strings.h", "dirent.h", "spawn.h", "semaphore.h", "aio.h", "glob.h", "fnmatch.h",
          "libgen.h", "endian.h", "byteswap.h", "execinfo.h", "termios.h", "ucontext.h", "malloc.h",
          "link.h", "pwd.h", "mqueue.h", "regex.h", "syslog.h", "wordexp.h", "features.h"]

# Public headers stand on the C library alone.
PUBLIC_SYSTEM = {"stddef", "stdint"}

GENERATED = {"include/tutti/version.h"}

ENVIRONMENT_HOME = "src/base/settings.c"
WAITS_HOME = "src/base/lock.c"
WALL_CLOCK = re.compile(r"\b(CLOCK_REALTIME|gettimeofday|pthread_timedjoin_np|sem_timedwait|"
                        r"pthread_mutex_timedlock|pthread_cond_timedwait)\b")
TEST_READERS = ["tests/*", "perf/*", "examples/*"]  # may read TUTTI_TEST_* only

FILE_LIMIT, FILE_WARNING = 1000, 600
FUNCTION_LIMIT, FUNCTION_WARNING = 100, 60

# Internal functions begin with their object: a word of a file's name in their room, or the name of
# a struct of its headers (or its plural); besides those, these words.
PREFIXES = {
    "src/base": ["fail", "dtype", "op", "coll"],
    "src/mem": ["mem"],
    "algorithms": ["build", "builder", "team", "tree", "ceil", "binomial", "move"],
    "transports": ["transport", "transports"],
    "transports/verbs": ["verbs"],
    "src": ["tutti", "address", "launcher", "tag"],
}

# Mutable data the library may have, with the reason.
GLOBALS = {
    "log_level_now": "a process has one standard error",
    "log_fd": "a process has one standard error",
    "log_file": "the path of log_fd",
    "log_file_fd": "one descriptor for all files in turn",
    "log_file_lock": "guards a change of these",
    "list": "src/mem: a pointer carries no handle, so the list of allocations is the process's",
    "generation": "src/mem: moves when that list changes",
    "once": "src/mem: finds the memory kinds once",
    "cache": "src/topology_probe: the machine does not change while a process runs",
    "library": "transports/verbs: libibverbs and librdmacm are loaded once per process",
    "library_once": "transports/verbs: loads them",
    "stand_ins": "src/base: the settings' defaults of this process",
    "registry": "transports/inproc: where threads of one process find each other",
    "pmix": "src/bootstrap_pmix: a process has one PMIx client, opened once",
    "launcher": "src/bootstrap_pmi1: a process has one connection to its launcher",
    "owned_bits": "src/base: descriptors are the process's, and so is what becomes of them in a child",
    "owned_words": "src/base: how far owned_bits is in use",
    "owned_once": "src/base: a fork is a fact of the process",
    "crypto": "src/base: libcrypto is the process's, and gone once it has cleaned up",
    "crypto_once": "src/base: asks libcrypto to stay until the process ends",
    "locks": "src/base: all that a child of fork makes new",
    "locks_once": "src/base: a fork is a fact of the process",
    "handles": "src/comm: destroyed communicators are told from live ones by this table",
    "handles_lock": "src/comm: guards it",
    "handles_next": "src/comm: where its next entry goes",
    "handles_alive": "src/comm: without a communicator no stream waits for the library",
    "proxy": "src/stream_proxy: one thread of the process serves all its streams",
    "tender": "src/comm_tend: one thread of the process looks after all its communicators",
    "tender_once": "src/comm_tend: an exit is a fact of the process",
    "fork_once": "src/comm: a fork is a fact of the process",
    "comm_forks": "src/comm: a fork is a fact of the process",
    "driver": "src/mem: a process has one GPU driver, found once",
    "table": "src/mem: its entry points",
    "opening": "src/mem: how it was found",
    "devices": "src/mem: contexts are met by address, which carries no handle",
    "primary": "src/mem: primary contexts that are kept",
    "pool": "src/mem: blocks outlive their users, since giving them back may wait for a stream",
    "ipc_names": "src/mem: the driver names an allocation once per process",
    "slot_store": "src/mem: pinned memory that slots are cut from is the process's",
    "attached": "src/mem: a peer's allocation is mapped once per process",
    "lock": "src/mem: guards the number that names this process",
    "number": "src/mem: names this process",
    "owner": "src/mem: the process it names",
    "threads": "src/mem: counts threads with default streams, whose ids are used again",
    "waiting_lock": "src/bootstrap_waiting: listening sockets of unique ids not yet used",
    "waiting_table": "src/bootstrap_waiting: listening sockets of unique ids not yet used",
    "waiting_once": "src/bootstrap_waiting: a fork is a fact of the process",
}

SKIPPED_DIRS = {"__pycache__", "subprojects"}
SOURCES = (".c", ".h", ".cu", ".cc", ".cpp", ".hpp")


# ---- reading the tree ----------------------------------------------------------------------------

def walk(root):
    for folder, dirs, names in os.walk(root):
        dirs[:] = sorted(d for d in dirs if not d.startswith((".", "build")) and
                         d not in SKIPPED_DIRS)
        for name in sorted(names):
            yield os.path.relpath(os.path.join(folder, name), root)


def matches(path, globs):
    return any(fnmatch.fnmatch(path, g) for g in globs)


def blank(match):
    """Keeps the line breaks of what is cut out, so that line numbers stay."""
    return "\n" * match.group(0).count("\n") or " "


TOKENS = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def without_comments(text):
    return TOKENS.sub(lambda m: m.group(0) if m.group(0)[0] in "\"'" else blank(m), text)


class Tree:
    def __init__(self, root):
        self.root = root
        self.files = list(walk(root))
        self.known = set(self.files)
        self.sources = [f for f in self.files if f.endswith(SOURCES)]
        self.text, self.code = {}, {}
        for path in self.sources:
            with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
                self.text[path] = file.read()
            self.code[path] = without_comments(self.text[path])
        self.includes = {path: list(self.find_includes(path)) for path in self.sources}

    def find_includes(self, path):
        """(line, as written, path in the project or None)"""
        for number, line in enumerate(self.code[path].split("\n"), 1):
            match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
            if not match:
                continue
            quoted, name = match.group(1) == '"', match.group(2)
            places = [os.path.dirname(path)] if quoted else []
            found = None
            for place in places + ["", "include", "src"]:
                candidate = os.path.normpath(os.path.join(place, name))
                if candidate in self.known or candidate in GENERATED:
                    found = candidate
                    break
            yield number, name, quoted, found


def room_of(path):
    for name, globs, allowed in ROOMS:
        if matches(path, globs):
            return name, globs, allowed
    return None, [], []


def core_level(path):
    """(level, place within it), or None for a file of no module."""
    word = re.split(r"[_.]", os.path.basename(path))[0]
    for level, words in enumerate(CORE_ORDER):
        if word in words:
            return level, words.index(word)
    return None


# ---- the checks: each yields (place, sentence) ---------------------------------------------------

def check_includes(tree):
    for path in tree.sources:
        room, globs, allowed = room_of(path)
        if room is None:
            yield path, "lies in no room of the table"
            continue
        if room == "core" and core_level(path) is None:
            words = " ".join(word for level in CORE_ORDER for word in level)
            yield path, f"belongs to no module of the core: its name must begin with one of {words}"
        for number, name, quoted, target in tree.includes[path]:
            place = f"{path}:{number}"
            if target is None:
                if quoted:
                    yield place, f'"{name}" is no file of the project (use <> for others)'
                continue
            target_room = room_of(target)[0]
            if target_room != room and not matches(target, allowed):
                yield place, f"{room} must not include {target} ({target_room or 'no room'})"
            elif room == "core" and target_room == "core":
                mine, theirs = core_level(path), core_level(target)
                if path.endswith(".h") and mine and theirs and mine[0] == theirs[0]:
                    above = theirs < mine
                else:
                    above = mine and theirs and theirs[0] < mine[0]
                if above:
                    yield place, f"{path} must not include {target}: it stands above"
            elif room == "core" and target_room == "compat":
                yield place, f"core must not include {target}"


def check_cycles(tree):
    graph = {path: [t for _, _, _, t in tree.includes[path] if t in tree.text and t != path]
             for path in tree.sources if path.endswith((".h", ".hpp"))}
    state, reported = {}, set()

    def visit(path, trail):
        state[path] = "open"
        for target in graph.get(path, []):
            if state.get(target) == "open":
                cycle = trail[trail.index(target):]
                if frozenset(cycle) not in reported:
                    reported.add(frozenset(cycle))
                    yield path, "header cycle: " + " -> ".join(cycle + [target])
            elif target not in state:
                yield from visit(target, trail + [target])
        state[path] = "done"

    for path in graph:
        for number, _, _, target in tree.includes[path]:
            if target == path:
                yield f"{path}:{number}", "includes itself"
        if path not in state:
            yield from visit(path, [path])


def check_foreign(tree):
    for path in tree.sources:
        room = room_of(path)[0]
        for number, name, quoted, target in tree.includes[path]:
            if target is not None or quoted:
                continue
            place = f"{path}:{number}"
            homes = next((homes for glob, homes in FOREIGN if fnmatch.fnmatch(name, glob)), None)
            plain = name[:-2] if name.endswith(".h") else name
            if homes is not None:
                if not matches(path, homes):
                    yield place, f"<{name}> may be included by {' '.join(homes)} only"
            elif room == "public":
                if plain not in PUBLIC_SYSTEM:
                    yield place, f"<{name}> in a public header: only <stddef.h> and <stdint.h> may"
            elif room in PURE:
                if plain not in PURE[room]:
                    yield place, f"<{name}> in {room}, which is pure"
            elif plain not in C_LIBRARY and not matches(name, SYSTEM) and \
                    path.endswith((".c", ".h")):
                yield place, f"<{name}> has no home in the table of foreign headers"


def check_environment(tree):
    for path in tree.sources:
        if path == ENVIRONMENT_HOME:
            continue
        reader = matches(path, TEST_READERS)
        for number, line in enumerate(tree.code[path].split("\n"), 1):
            place = f"{path}:{number}"
            bare = TOKENS.sub('""', line)
            for match in re.finditer(r"\b(?:secure_)?getenv\s*\(\s*([^)]*)", line):
                if not re.search(r"\b(?:secure_)?getenv\s*\(", bare):
                    continue
                if not reader:
                    yield place, f"reads the environment: only {ENVIRONMENT_HOME} may"
                elif not match.group(1).startswith('"TUTTI_TEST_'):
                    yield place, "tests, perf and examples may read TUTTI_TEST_* only"
            if not reader and re.search(r"\benviron\b", bare):
                yield place, f"reads the environment: only {ENVIRONMENT_HOME} may"


def check_clock(tree):
    """The wall clock is set forward and back, and a wait by it ends hours early or late."""
    for path in tree.sources:
        if path == WAITS_HOME or matches(path, TEST_READERS):
            continue
        for number, line in enumerate(tree.code[path].split("\n"), 1):
            for name in WALL_CLOCK.findall(line):
                yield f"{path}:{number}", f"{name} goes by the wall clock: see base/clock.h, base/lock.h"


def functions(text):
    """(first line, length in lines, name): brackets of functions stand alone in the first column,
    which clang-format holds."""
    lines = text.split("\n")
    opened = None
    for index, line in enumerate(lines):
        if line.rstrip() == "{":
            opened = index
        elif line.startswith("}") and opened is not None:
            first = opened
            while first > 0 and lines[first - 1].strip() and \
                    not re.match(r"[}#]|.*(;|\*/)$", lines[first - 1]):
                first -= 1
            head = " ".join(lines[first:opened])
            match = re.search(r"(\w+)\s*\(", head)
            yield first + 1, index - first + 1, match.group(1) if match else "?"
            opened = None


def sizes(tree, file_limit, function_limit):
    for path in tree.files:
        if path.endswith(SOURCES):
            lines = tree.text[path].count("\n")
        elif path.endswith(".py"):
            with open(os.path.join(tree.root, path), encoding="utf-8", errors="replace") as file:
                lines = file.read().count("\n")
        else:
            continue
        if lines > file_limit:
            yield path, f"has {lines} lines, more than {file_limit}"
        for first, length, name in functions(tree.text[path]) if path in tree.text else []:
            if length > function_limit:
                yield f"{path}:{first}", f"{name} has {length} lines, more than {function_limit}"


def check_sizes(tree):
    return sizes(tree, FILE_LIMIT, FUNCTION_LIMIT)


def defines_function(macro):
    """A macro whose body is a whole function, as kernels generated from a list are."""
    return any(word not in ("if", "for", "while", "switch") for word in
               re.findall(r"([\w#]+)\s*\([^()]*\)[\s\x00]*\{", macro))


def check_macros(tree):
    """A macro that returns or jumps hides control flow. X is the row of a list: cases may return."""
    for path in tree.sources:
        code = re.sub(r"\\\n", lambda m: " \x00", tree.code[path])
        number = 1
        for line in code.split("\n"):
            match = re.match(r"\s*#\s*define\s+(\w+)", line)
            bare = TOKENS.sub('""', line)
            if match and match.group(1) != "X" and not defines_function(bare) and \
                    re.search(r"\b(return|goto)\b", bare):
                yield f"{path}:{number}", f"macro {match.group(1)} returns or jumps"
            number += 1 + line.count("\x00")


def check_notes(tree):
    for path in tree.sources:
        for number, line in enumerate(tree.text[path].split("\n"), 1):
            if re.search(r"\b(TODO|FIXME|XXX)\b", line):
                yield f"{path}:{number}", "a note for later: do it, or leave it out"


# ---- symbols -------------------------------------------------------------------------------------

def output(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check_exports(lib):
    for line in output(["nm", "-D", "--defined-only", lib]).splitlines():
        kind, name = line.split()[-2:]
        name = name.split("@")[0]
        if kind != "A" and not name.startswith("tutti_"):
            yield os.path.basename(lib), f"exports {name}: only tutti_* may be exported"


def check_globals(lib):
    """Objects in writable sections that are not relocated constants: the library's hidden state."""
    writable = {}
    for line in output(["readelf", "-SW", lib]).splitlines():
        match = re.match(r"\s*\[\s*(\d+)\]\s+(\S+)\s", line)
        if match and re.match(r"\.(data|bss|tdata|tbss)", match.group(2)) and \
                not match.group(2).startswith(".data.rel.ro"):
            writable[match.group(1)] = match.group(2)
    for line in output(["readelf", "-sW", lib]).splitlines():
        part = line.split()
        if len(part) < 8 or part[3] != "OBJECT" or part[6] not in writable:
            continue
        name = re.sub(r"\.\d+$", "", part[7])
        if name not in GLOBALS and not name.startswith(("__", "completed")):
            yield os.path.basename(lib), f"has the mutable global {name} in {writable[part[6]]}"


def source_of(member):
    """The source of an archive member, which the build names after its path:
    src_base_log.c.o is src/base/log.c."""
    name = re.sub(r"\.o$", "", os.path.basename(member))
    for room in sorted(PREFIXES, key=len, reverse=True):
        start = room.replace("/", "_") + "_"
        if name.startswith(start):
            return room, name[len(start):]
    return None, name


def room_words(tree, room):
    words = set(PREFIXES[room])
    for path in tree.sources:
        if os.path.dirname(path) != room:
            continue
        words.update(re.split(r"[_.]", os.path.basename(path))[:-1])
        if path.endswith(".h"):
            words.update(re.split("_", tag)[0] for tag in
                         re.findall(r"\b(?:struct|enum)\s+(\w+)\s*\{", tree.code[path]))
    return words


def check_prefixes(tree, archive):
    words = {room: room_words(tree, room) for room in PREFIXES}
    member = None
    for line in output(["nm", "-g", "--defined-only", archive]).splitlines():
        if line.endswith(":"):
            member = line[:-1].split("(")[-1].rstrip(")")
            continue
        part = line.split()
        if len(part) < 3 or member is None or part[1] not in "TW":
            continue
        room, name = source_of(member)
        if room is None or part[2].startswith(("_", "asan.")):
            continue
        first = part[2].split("_")[0]
        known = {first, first + "s", first.rstrip("s"), re.sub("v$", "", first)}
        if not known & words[room]:
            yield f"{room}/{name}", f"{part[2]} begins with no file's or struct's name of its room"


# ---- running -------------------------------------------------------------------------------------

TREE_CHECKS = [
    ("includes", "who includes whom", check_includes),
    ("cycles", "no header cycle", check_cycles),
    ("foreign", "foreign headers stay at home", check_foreign),
    ("environment", "one reader of the environment", check_environment),
    ("clock", "no wait by the wall clock", check_clock),
    ("sizes", f"files to {FILE_LIMIT} lines, functions to {FUNCTION_LIMIT}", check_sizes),
    ("macros", "no macro returns or jumps", check_macros),
    ("notes", "nothing left for later", check_notes),
]


def run(root, lib=None, archive=None, out=print):
    """Returns (passed, failed, skipped, findings as {check: [(place, sentence)]})."""
    tree = Tree(root)
    jobs = [(name, title, lambda check=check: check(tree)) for name, title, check in TREE_CHECKS]
    passed = failed = skipped = 0
    findings = {}
    for name, title, check, path in [
            ("exports", "exported symbols have their prefix", check_exports, lib),
            ("globals", "no hidden mutable globals", check_globals, lib),
            ("prefixes", "internal functions have their room's prefix",
             lambda path: check_prefixes(tree, path), archive)]:
        if path:
            jobs.append((name, title, lambda check=check, path=path: check(path)))
        else:
            skipped += 1
            out(f"  SKIPPED: {title}: no {'archive' if name == 'prefixes' else 'library'} given")
    for name, title, check in jobs:
        findings[name] = list(check())
        out(f"  {title}: {'FAILED' if findings[name] else 'passed'}")
        for place, sentence in findings[name]:
            out(f"    {place}: {sentence}")
        passed += not findings[name]
        failed += bool(findings[name])
    for place, sentence in sizes(tree, FILE_WARNING, FUNCTION_WARNING):
        out(f"  warning: {place}: {sentence}")
    return passed, failed, skipped, findings


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default=os.path.join(os.path.dirname(__file__), ".."))
    parser.add_argument("--lib")
    parser.add_argument("--archive")
    options = parser.parse_args()
    passed, failed, skipped, _ = run(options.root, options.lib, options.archive)
    print(f"suite layers: {passed} passed, {failed} failed, {skipped} skipped")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
