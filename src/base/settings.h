/* settings.h: the one table of TUTTI_* settings, and the only place that reads the environment.
 * A communicator loads a snapshot when it is made and keeps it. To add a setting, add one line to
 * SETTINGS_LIST; loading, range errors and `coll_perf --settings` follow.
 *
 * X(KIND, field, "NAME" without the TUTTI_ prefix, default, minimum, maximum, doc)
 *   KIND U64: uint64_t (suffixes K M G in powers of 1,024);  BOOL: bool (0/1/yes/no/on/off);
 *   TEXT: char[SETTING_TEXT_MAX], where minimum is unused and maximum is the greatest length;
 *   CHOICE: unsigned index; "minimum" is the list "a|b|c" of allowed words, default one of them. */
#ifndef BASE_SETTINGS_H
#define BASE_SETTINGS_H

#include "base/status.h"

#define SETTING_TEXT_MAX 256

#define SETTINGS_LIST(X)                                                                           \
    X(CHOICE, log, "LOG", "warn", "none|error|warn|info|debug", 0, "least severe line to print")   \
    X(TEXT, log_file, "LOG_FILE", "", 0, 255, "file that gets the lines; empty: standard error")   \
    X(TEXT, rendezvous, "RENDEZVOUS", "", 0, 255,                                                  \
      "host:port where rank 0 listens and all ranks meet")                                         \
    X(U64, rank, "RANK", 0, 0, 0x7fffffff, "this process's rank, with TUTTI_RENDEZVOUS")           \
    X(U64, size, "SIZE", 1, 1, 65536, "number of ranks, with TUTTI_RENDEZVOUS")                    \
    X(TEXT, secret, "SECRET", "", 0, 255,                                                          \
      "job secret; peers must prove they know it (prefer TUTTI_SECRET_FILE)")                      \
    X(TEXT, secret_file, "SECRET_FILE", "", 0, 255, "file whose content is the job secret")        \
    X(TEXT, interface, "INTERFACE", "", 0, 255,                                                    \
      "network interfaces by name (eth0, eth*) or subnet (10.0.0.0/8), those not to use with ^ "   \
      "before it, with commas; empty: by reachability")                                            \
    X(CHOICE, family, "FAMILY", "any", "any|ipv4|ipv6", 0, "address family of sockets")            \
    X(TEXT, ports, "PORTS", "", 0, 255, "lowest-highest port for every listening socket")          \
    X(TEXT, host_id, "HOST_ID", "", 0, 63,                                                         \
      "name that ranks on one host share; empty: boot id and IPC, PID, network namespace")         \
    X(TEXT, transports, "TRANSPORTS", "auto", 0, 255,                                              \
      "transports allowed (inproc,shm,ib,roce,iwarp,tcp), or auto")                                \
    X(TEXT, algo, "ALGO", "", 0, 255,                                                              \
      "algorithm per collective: allreduce:ring,alltoall:bruck; empty: the planner chooses")       \
    X(U64, chunk, "CHUNK", 0, 0, 1u << 30, "bytes per pipelined piece; 0: the planner chooses")    \
    X(U64, lanes, "LANES", 0, 0, 7, "parallel lanes (sockets) per link; 0: the planner chooses")   \
    X(U64, timeout_ms, "TIMEOUT_MS", 600000, 1, 86400000,                                          \
      "longest wait inside one operation, until it is asked who is late")                          \
    X(U64, stall_ms, "STALL_MS", 30000, 0, 86400000,                                               \
      "wait after which the log says who is late, at level warn; 0: never")                        \
    X(U64, meet_timeout_ms, "MEET_TIMEOUT_MS", 300000, 10, 86400000,                               \
      "longest wait for all ranks to come where they meet")                                        \
    X(U64, connect_timeout_ms, "CONNECT_TIMEOUT_MS", 30000, 10, 3600000,                           \
      "how long the host of a peer may not answer when a link is made")                            \
    X(U64, spin_us, "SPIN_US", 50, 0, 1000000,                                                     \
      "busy wait before yielding; ranks that outnumber cores yield at once")                       \
    X(BOOL, cma, "CMA", true, 0, 1, "cross-memory attach for ordinary memory on one host")         \
    X(BOOL, inplace, "INPLACE", true, 0, 1, "read tutti_mem_alloc memory of local peers in place") \
    X(BOOL, cuda, "CUDA", true, 0, 1, "use GPU memory and streams where there is a driver")        \
    X(TEXT, cuda_driver, "CUDA_DRIVER", "", 0, 255,                                                \
      "file of the GPU driver's library; empty: libcuda.so.1")                                     \
    X(CHOICE, cuda_stream_ops, "CUDA_STREAM_OPS", "auto", "auto|memory|host", 0,                   \
      "how streams signal and wait: memory operations, or memory sets and host functions")         \
    X(BOOL, cuda_direct, "CUDA_DIRECT", true, 0, 1,                                                \
      "ranks of one host work in each other's GPU memory; no: through host memory")                \
    X(U64, cuda_direct_min, "CUDA_DIRECT_MIN", 256 << 10, 1, 1ull << 40,                           \
      "bytes from which they do (times (p-1)^2 when p processes share a GPU); less: host memory")  \
    X(U64, cuda_part, "CUDA_PART", 8 << 20, 0, 1ull << 40,                                         \
      "bytes of a part, of which one is copied while another travels, of calls that go through "   \
      "host memory; 0: whole")                                                                     \
    X(BOOL, cuda_slots, "CUDA_SLOTS", true, 0, 1,                                                  \
      "work in GPU memory lies in its stream from the start; no: launched when data are there")    \
    X(U64, cuda_kernel_out, "CUDA_KERNEL_OUT", 0, 0, 1 << 20,                                      \
      "bytes up to which a stream takes a call's input to host memory by a kernel, not a copy")    \
    X(U64, cuda_kernel_back, "CUDA_KERNEL_BACK", 0, 0, 1 << 20,                                    \
      "bytes up to which it takes the output back by a kernel")                                    \
    X(U64, hold_ms, "HOLD_MS", 60000, 0, 86400000,                                                 \
      "longest wait of streams for the abort of a failed communicator, where they wait (NCCL)")    \
    X(TEXT, verbs_device, "VERBS_DEVICE", "", 0, 255,                                              \
      "RDMA ports to use, device (mlx5_0, mlx5*) or device:port, those not to use with ^ before "  \
      "it, with commas; empty: all that are active")                                               \
    X(U64, verbs_rails, "VERBS_RAILS", 4, 1, 4,                                                    \
      "RDMA ports used at most, each a rail of the link: the fastest, and of those the nearest")   \
    X(CHOICE, verbs_connect, "VERBS_CONNECT", "bootstrap", "bootstrap|cm", 0,                      \
      "how queue pairs are connected; iWARP always uses cm, the RDMA connection manager")          \
    X(U64, verbs_gid_index, "VERBS_GID_INDEX", 256, 0, 256,                                        \
      "RoCE: entry of the port's table of addresses; 256: chosen for each peer")                   \
    X(U64, verbs_qps, "VERBS_QPS", 1, 1, 4, "queue pairs per rail of a link")                      \
    X(U64, verbs_depth, "VERBS_DEPTH", 128, 64, 4096, "work requests a queue pair may hold")       \
    X(U64, verbs_slot, "VERBS_SLOT", 8192, 512, 65536,                                             \
      "bytes of a registered receive slot; longer messages are written directly")                  \
    X(U64, verbs_window, "VERBS_WINDOW", 16, 1, 64, "messages a lane may send ahead of receives")  \
    X(U64, verbs_chunk, "VERBS_CHUNK", 131072, 4096, 1u << 30, "bytes of one RDMA write")          \
    X(U64, verbs_inline, "VERBS_INLINE", 220, 0, 1024,                                             \
      "bytes of a message that the device takes from the request itself; less where it has less")  \
    X(U64, verbs_timeout, "VERBS_TIMEOUT", 14, 1, 31,                                              \
      "wait for an acknowledgement, 4.096 us times two to this power")                             \
    X(U64, verbs_retry, "VERBS_RETRY", 6, 0, 7, "waits before a queue pair fails")                 \
    X(U64, verbs_service_level, "VERBS_SERVICE_LEVEL", 0, 0, 15, "InfiniBand: service level")      \
    X(U64, verbs_traffic_class, "VERBS_TRAFFIC_CLASS", 0, 0, 255,                                  \
      "RoCE: traffic class (DSCP, ECN)")                                                           \
    X(BOOL, verbs_relaxed, "VERBS_RELAXED", true, 0, 1,                                            \
      "data may pass other data on the way to memory, where the device can do it")                 \
    X(BOOL, verbs_odp, "VERBS_ODP", true, 0, 1,                                                    \
      "memory that the limit keeps from being locked is paged on demand, where the device can")    \
    X(CHOICE, verbs_gpu, "VERBS_GPU", "off", "auto|dmabuf|peermem|off", 0,                         \
      "how adapters get at GPU memory: dma-buf, else peer memory; off: through host memory")       \
    X(BOOL, verbs_fallback, "VERBS_FALLBACK", true, 0, 1,                                          \
      "links whose rails are all lost, or have none that works, go over TCP")                      \
    X(TEXT, mpi, "MPI", "all", 0, 255,                                                             \
      "calls of MPI programs that libtutti_mpi.so carries out (allreduce,bcast), all or none")     \
    X(TEXT, fault, "FAULT", "", 0, 255, "faults to inject, for tests; see transports/fault_rules.h")

#define SETTINGS_TYPE_U64(field)    uint64_t field;
#define SETTINGS_TYPE_BOOL(field)   bool field;
#define SETTINGS_TYPE_TEXT(field)   char field[SETTING_TEXT_MAX];
#define SETTINGS_TYPE_CHOICE(field) unsigned field;

struct settings {
#define X(KIND, field, name, value, minimum, maximum, doc) SETTINGS_TYPE_##KIND(field)
    SETTINGS_LIST(X)
#undef X
};

/* What TUTTI_VERBS_GPU may say, in the order of its row. */
enum setting_verbs_gpu { VERBS_GPU_AUTO, VERBS_GPU_DMABUF, VERBS_GPU_PEERMEM, VERBS_GPU_OFF };

/* Defaults, then the environment. TUTTI_ERR_SETTING with the name, the value and the range;
 * a TUTTI_* variable that is in no row is an error too (it is a typing mistake). */
tutti_status settings_load(struct settings *settings);
void settings_defaults(struct settings *settings);
/* TUTTI_PORTS, "low-high" or one port; 0 and 0 when any will do. TUTTI_ERR_SETTING if it is none;
 * settings_load has looked. */
tutti_status settings_port_range(const struct settings *settings, unsigned *low, unsigned *high);
/* Sets one row by name from text, as the environment would. */
tutti_status settings_set(struct settings *settings, const char *name, const char *text);
/* See tutti_setting_default. */
tutti_status settings_put_default(const char *name, const char *text);
/* Digits, then at most one of K, M and G (powers of 1,024); false: not such a number, or none of 64
 * bits. For options too. */
bool settings_number(const char *text, uint64_t *number);
/* Whether the pattern (len bytes) is the name, or with a * at its end begins it. */
bool settings_pattern(const char *pattern, size_t len, const char *name);
/* See tutti_settings_print. */
size_t settings_print(const struct settings *settings, char *text, size_t len);
/* See tutti_setting_name and tutti_setting_get. */
const char *settings_name(size_t index);
tutti_status settings_get(const struct settings *settings, const char *name, char *text,
                          size_t len);
/* A variable of a launcher or of another library (RANK, NCCL_COMM_ID, ...): NULL when unset. The
 * names that may be asked for are listed in settings.c; any other name stops the program.
 * (TUTTI_RENDEZVOUS, _RANK and _SIZE are among them: whether they are set at all.) */
const char *settings_launcher_variable(const char *name);

#endif
