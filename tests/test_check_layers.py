#!/usr/bin/env python3
"""Plants a bad tree and asks check_layers to find every fault in it, and none in a good one."""
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import check_layers  # noqa: E402

GOOD = {
    "include/tutti/types.h": "#include <stdint.h>\n",
    "src/base/status.h": '#include "tutti/types.h"\n',
    "src/base/settings.c": '#include <stdlib.h>\n#include "base/status.h"\n'
                           'const char *f(void)\n{\n    return getenv("TUTTI_LOG");\n}\n',
    "src/mem/mem.h": '#include "base/status.h"\n',
    "algorithms/coll.h": '#include "base/status.h"\n',
    "algorithms/ring.c": '#include <string.h>\n#include "algorithms/coll.h"\n',
    "transports/transport.h": '#include "mem/mem.h"\n',
    "src/topology.h": '#include "base/status.h"\n',
    "src/planner.h": '#include "algorithms/coll.h"\n#include "src/topology.h"\n',
    "src/topology_probe.c": '#include <hwloc.h>\n#include "src/topology.h"\n',
    "src/comm.h": '#include "src/exec.h"\n',
    "src/exec.h": '#include "src/planner.h"\n#include "transports/transport.h"\n',
    "src/exec.c": '#include "src/comm.h"\n',
    "tests/test_x.c": '#include <CUnit/Basic.h>\n#include "src/comm.h"\n'
                      'int f(void)\n{\n    return getenv("TUTTI_TEST_SEED") != 0;\n}\n',
    "tests/mpi/m.c": '#include <mpi.h>\n#include <tutti/types.h>\n',
    "perf/a.c": '#include "algorithms/coll.h"\n#include "src/planner.h"\n',
    "examples/e.c": '#include <tutti/types.h>\n/* getenv("HOME") #include "src/comm.h" */\n',
    "build/junk.c": '#include "nowhere.h"\n',
}

# (what is wrong, files that replace or join the good ones, check, words of the finding)
BAD = [
    ("upward include", {"src/base/log.c": '#include "mem/mem.h"\n'}, "includes",
     "base must not include src/mem/mem.h"),
    ("algorithm sees a transport", {"algorithms/x.c": '#include "transports/transport.h"\n'},
     "includes", "algorithms must not include transports/transport.h"),
    ("transport sees an algorithm", {"transports/x.c": '#include "algorithms/coll.h"\n'},
     "includes", "transports must not include algorithms/coll.h"),
    ("transport sees the core", {"transports/x.c": '#include "src/comm.h"\n'}, "includes",
     "transports must not include src/comm.h"),
    ("algorithm reads a clock", {"src/base/clock.h": "", "algorithms/x.c": '#include "base/clock.h"\n'},
     "includes", "algorithms must not include src/base/clock.h"),
    ("core upwards", {"src/topology.c": '#include "src/planner.h"\n'}, "includes", "stands above"),
    ("core header upwards within its level", {"src/exec.h": '#include "src/comm.h"\n',
                                              "src/comm.h": ""}, "includes", "stands above"),
    ("example sees the inside", {"examples/x.c": '#include "base/status.h"\n'}, "includes",
     "examples must not include"),
    ("perf sees a transport's inside", {"transports/tcp.h": "", "perf/x.c": '#include "transports/tcp.h"\n'},
     "includes", "perf must not include transports/tcp.h"),
    ("relative include", {"src/base/x.c": '#include "../mem/mem.h"\n'}, "includes",
     "base must not include src/mem/mem.h"),
    ("no such file", {"src/base/x.c": '#include "base/nosuch.h"\n'}, "includes",
     "is no file of the project"),
    ("no room", {"extra/x.c": ""}, "includes", "lies in no room"),
    ("no module", {"src/misc.c": ""}, "includes", "belongs to no module"),
    ("cycle", {"src/mem/a.h": '#include "mem/b.h"\n', "src/mem/b.h": '#include "mem/a.h"\n'},
     "cycles", "header cycle: src/mem/a.h -> src/mem/b.h -> src/mem/a.h"),
    ("includes itself", {"src/mem/a.h": '#include "mem/a.h"\n'}, "cycles", "includes itself"),
    ("hwloc elsewhere", {"src/planner.c": "#include <hwloc.h>\n"}, "foreign",
     "src/topology_probe.c only"),
    ("verbs elsewhere", {"transports/tcp.c": "#include <infiniband/verbs.h>\n"}, "foreign",
     "transports/verbs/* only"),
    ("mpi in the core", {"src/comm.c": "#include <mpi.h>\n"}, "foreign", "<mpi.h> may be"),
    ("openssl elsewhere", {"src/bootstrap.c": "#include <openssl/evp.h>\n"}, "foreign",
     "src/base/auth.c src/base/seal.c src/base/crypto.c"),
    ("cuda elsewhere", {"src/mem/mem.c": "#include <cuda_runtime.h>\n"}, "foreign", "mem_cuda"),
    ("unknown foreign", {"src/comm.c": "#include <zmq.h>\n"}, "foreign", "has no home"),
    ("clock in a pure room", {"algorithms/x.c": "#include <time.h>\n"}, "foreign", "is pure"),
    ("system header in a pure room", {"algorithms/x.c": "#include <unistd.h>\n"}, "foreign",
     "is pure"),
    ("public header takes stdio", {"include/tutti/tutti.h": "#include <stdio.h>\n"}, "foreign",
     "public header"),
    ("stray getenv", {"src/comm.c": 'int f(void)\n{\n    return getenv("X") != 0;\n}\n'},
     "environment", "src/comm.c:3: reads the environment"),
    ("secure_getenv", {"transports/x.c": 'void *p = secure_getenv ("X");\n'}, "environment",
     "reads the environment"),
    ("environ", {"transports/x.c": "extern char **environ;\n"}, "environment",
     "reads the environment"),
    ("test reads a setting", {"tests/x.c": 'void *p = getenv("TUTTI_LOG");\n'}, "environment",
     "TUTTI_TEST_* only"),
    ("wall clock", {"src/comm.c": "void f(void)\n{\n    clock_gettime(CLOCK_REALTIME, 0);\n}\n"},
     "clock", "src/comm.c:3: CLOCK_REALTIME goes by the wall clock"),
    ("condition by the wall clock", {"src/comm.c": "int i = pthread_cond_timedwait(c, m, t);\n"},
     "clock", "pthread_cond_timedwait goes by"),
    ("long file", {"src/comm.c": "int x;\n" * 1001}, "sizes", "has 1001 lines"),
    ("long script", {"tests/x.py": "x = 1\n" * 1001}, "sizes", "has 1001 lines"),
    ("long function", {"src/comm.c": "int f(int a,\n      int b)\n{\n" + "    a++;\n" * 98 + "}\n"},
     "sizes", "src/comm.c:1: f has 102 lines"),
    ("macro that returns", {"src/comm.c": "#define CHECK(x) \\\n    do { \\\n        if (x) { "
                                          "\\\n return x; } \\\n    } while (0)\n"},
     "macros", "CHECK returns or jumps"),
    ("macro that jumps", {"src/comm.c": "#define TRY(x) if (!(x)) goto out\n"}, "macros",
     "TRY returns or jumps"),
    ("note for later", {"src/comm.c": "/* TODO: all of it */\n"}, "notes", "note for later"),
]

FINE = [
    ("list row that returns", {"src/comm.c": "#define X(a) case a: return #a;\n"}),
    ("macro that makes a function", {"src/mem/x.c": "#define ONE(n) static int n##_one(int a) \\\n"
                                                    "    { \\\n return a; }\n"}),
    ("getenv in words", {"src/comm.c": '/* getenv("X") */\nconst char *s = "getenv(";\n'}),
    ("the wall clock in a test", {"tests/x.c": "int i = CLOCK_REALTIME;\n"}),
    ("short function", {"src/comm.c": "int f(int a)\n{\n" + "    a++;\n" * 97 + "}\n"}),
]


def plant(folder, files):
    for path, text in files.items():
        full = os.path.join(folder, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)


def findings(files, **options):
    with tempfile.TemporaryDirectory() as folder:
        plant(folder, GOOD)
        plant(folder, files)
        return check_layers.run(folder, out=lambda line: None, **options)[3]


def said(found, check, words):
    return any(words in f"{place}: {sentence}" for place, sentence in found[check])


def symbols(out):
    """A library that exports too much, hides a counter and has a function of no room."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang-14")
    if not compiler or not shutil.which("nm") or not shutil.which("readelf"):
        out("  SKIPPED: symbols: no compiler or binutils here")
        return None
    with tempfile.TemporaryDirectory() as folder:
        plant(folder, {"x.c": "static int counter;\nint stray(void);\nint stray(void)\n{\n"
                              "    return ++counter;\n}\nint tutti_x(void);\nint tutti_x(void)\n"
                              "{\n    return 0;\n}\nconst char *const table[] = {\"a\"};\n"})
        lib, member, archive = (os.path.join(folder, name) for name in
                                ("libtutti.so", "src_base_log.c.o", "libtutti_internal.a"))
        source = os.path.join(folder, "x.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", lib, source], check=True)
        subprocess.run([compiler, "-c", "-o", member, source], check=True)
        subprocess.run(["ar", "rc", archive, member], check=True)
        found = findings({}, lib=lib, archive=archive)
    return (said(found, "exports", "exports stray") and said(found, "globals", "counter in .bss") and
            not said(found, "exports", "tutti_x") and not said(found, "globals", "global table") and
            said(found, "prefixes", "stray begins with no file's"))


def main():
    passed = failed = skipped = 0

    def report(name, good, detail=""):
        nonlocal passed, failed
        passed += bool(good)
        failed += not good
        print(f"  {name}: {'passed' if good else 'FAILED ' + detail}")

    found = findings({})
    report("a good tree is good", not any(found.values()), str(found))
    for name, files in FINE:
        found = findings(files)
        report(name, not any(found.values()), str(found))
    for name, files, check, words in BAD:
        found = findings(files)
        others = {other: rows for other, rows in found.items() if rows and other != check}
        report(name, said(found, check, words) and not others, str(found))
    good = symbols(print)
    if good is None:
        skipped += 1
    else:
        report("symbols", good)
    print(f"suite check_layers: {passed} passed, {failed} failed, {skipped} skipped")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
