#!/usr/bin/env bash
# Hosts made of network namespaces joined by a bridge: shared memory inside a host, TCP between.
# Runs coll_perf on 2x2, 2x4 and 3x2 ranks, once over IPv6, and a rank that misbehaves across hosts.
#   BUILD: build directory with perf/coll_perf and tests/misbehave (default build)
# Needs root (namespaces); skipped aloud without.
set -u
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
tag=tt$$x
passed=0 failed=0 skipped=0
work=$(mktemp -d)

finish() {
    echo "suite netns: $passed passed, $failed failed, $skipped skipped"
    [ $failed -eq 0 ]
}

cleanup() {
    for n in $(ip netns list 2>/dev/null | awk -v t="$tag" 'index($1, t) == 1 {print $1}'); do
        ip netns pids "$n" 2>/dev/null | xargs -r kill -9 2>/dev/null
        ip netns del "$n"
    done
    rm -rf "/etc/netns/$tag"*
    [ ! -d /etc/netns ] || rmdir --ignore-fail-on-non-empty /etc/netns
    rm -rf "$work"
}
trap cleanup EXIT

make_hosts() { # count
    set -e
    ip netns add ${tag}hub
    ip -n ${tag}hub link add name bridge0 type bridge
    ip -n ${tag}hub link set dev bridge0 up
    for i in $(seq 1 "$1"); do
        ip netns add $tag$i
        ip -n ${tag}hub link add v$i type veth peer name eth0 netns $tag$i
        ip -n ${tag}hub link set dev v$i master bridge0 up
        ip -n $tag$i addr add 10.99.0.$i/24 dev eth0
        ip -n $tag$i addr add fd99::$i/64 dev eth0 nodad
        ip -n $tag$i link set eth0 up
        ip -n $tag$i link set lo up
    done
    set +e
}

# name meeting-place hosts ranks-per-host seconds expected-dead-rank command...
job() {
    local name=$1 meet=$2 hosts=$3 per=$4 limit=$5 dead=$6 size=$(($3 * $4)) bad=0 rank=0 pids=()
    shift 6
    for h in $(seq 1 "$hosts"); do
        for _ in $(seq 1 "$per"); do
            ip netns exec $tag$h env TUTTI_RENDEZVOUS="$meet" TUTTI_RANK=$rank TUTTI_SIZE=$size \
                timeout -k 1 "$limit" "$@" >"$work/$rank.out" 2>&1 &
            pids+=($!)
            rank=$((rank + 1))
        done
    done
    rank=0
    for p in "${pids[@]}"; do
        wait "$p" 2>/dev/null
        local status=$?
        [ $rank = "$dead" ] || [ $status -eq 0 ] || { bad=1; echo "    $name: rank $rank ended with $status"; }
        rank=$((rank + 1))
    done
    if [ $bad -eq 0 ]; then
        passed=$((passed + 1)); echo "  ok      $name"
    else
        failed=$((failed + 1)); echo "  FAILED  $name"
        for r in $(seq 0 $((size - 1))); do sed "s/^/    [$r] /" "$work/$r.out" | tail -n 12; done
    fi
}

# What the hosts call `head`: each argument is an address. (`ip netns exec` shows such a file as
# /etc/hosts.) Where a host is named `head` itself it may know that as an address of the loopback.
call_head() {
    for h in 1 2 3; do
        mkdir -p /etc/netns/$tag$h
        printf '%s head\n' "$@" >/etc/netns/$tag$h/hosts
    done
}
call_head_as_debian() { # address
    call_head "$1"
    echo 127.0.1.1 head >/etc/netns/${tag}1/hosts
}

# Two hosts that a router leads to, by either of two ports: their one address is of the loopback
# interface.
make_routed() {
    set -e
    ip netns add ${tag}router
    ip netns exec ${tag}router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
    for i in 1 2; do
        n=${tag}r$i
        ip netns add $n
        ip -n $n link set lo up
        ip -n $n addr add 10.77.0.$i/32 dev lo
        for e in eth0 eth1; do
            ip -n $n link add $e type veth peer name $e$i netns ${tag}router
            for end in "$n dev $e" "${tag}router dev $e$i"; do
                ip -n ${end% dev*} link set ${end##* } addrgenmode none up
            done
            ip -n $n addr add fe80::7$i/64 dev $e nodad
            ip -n ${tag}router addr add fe80::1/64 dev $e$i nodad
        done
        ip -n $n route add 10.77.0.0/24 via inet6 fe80::1 dev eth0 src 10.77.0.$i
        ip -n ${tag}router route add 10.77.0.$i/32 via inet6 fe80::7$i dev eth0$i
    done
    set +e
}

# What is sent to an address by the other hosts than its own is lost, without an answer.
silence() { # address
    for h in 2 3; do ip -n $tag$h neigh replace "$1" lladdr 02:00:00:00:00:99 dev eth0 nud permanent; done
}
unsilence() { # address
    for h in 2 3; do ip -n $tag$h neigh del "$1" dev eth0; done
}

if ! ip netns add ${tag}probe 2>/dev/null; then
    skipped=1
    echo "  SKIPPED: network namespaces need root (and iproute2)"
    finish
    exit
fi
ip netns del ${tag}probe
make_hosts 3
perf="$build/perf/coll_perf allreduce allgather alltoall broadcast reduce_scatter -b 4 -e 1M -f 16 -n 3 -w 1"
job "2 hosts x 2 ranks" 10.99.0.1:7101 2 2 120 none $perf
job "2 hosts x 4 ranks" 10.99.0.1:7102 2 4 120 none $perf
job "3 hosts x 2 ranks" 10.99.0.1:7103 3 2 120 none $perf
job "2 hosts x 2 ranks over IPv6" '[fd99::1]:7104' 2 2 120 none env TUTTI_FAMILY=ipv6 $perf
job "2 hosts x 2 ranks, all collectives" 10.99.0.1:7105 2 2 200 none $build/perf/coll_perf all -b 4 -e 64K -f 16 -n 2 -w 1
for how in none count type op coll; do
    job "mixed transports: $how" 10.99.0.1:7110 2 2 30 none $build/tests/misbehave $how
done
job "mixed transports: die" 10.99.0.1:7111 2 2 30 1 $build/tests/misbehave die
job "3 hosts: die" 10.99.0.1:7112 3 2 30 1 $build/tests/misbehave die
ip -n ${tag}2 route add unreachable 10.99.0.3/32
job "2 hosts that cannot reach each other" 10.99.0.1:7113 3 1 30 none \
    env TUTTI_FAMILY=ipv4 TUTTI_CONNECT_TIMEOUT_MS=2000 $build/tests/misbehave apart
ip -n ${tag}2 route del unreachable 10.99.0.3/32

small="$build/perf/coll_perf allreduce -b 4 -e 4K -f 32 -n 3 -w 1"
cat >"$work/torchrun" <<'END'
#!/usr/bin/env bash
export RANK=$TUTTI_RANK WORLD_SIZE=$TUTTI_SIZE MASTER_ADDR=head MASTER_PORT=29500
exec env -u TUTTI_RENDEZVOUS -u TUTTI_RANK -u TUTTI_SIZE "$@"
END
chmod +x "$work/torchrun"
call_head fd99::77 10.99.0.1
job "a name whose first address is nobody's" head:7120 3 1 60 none $small
job "a name whose first address is nobody's, port unknown" - 3 1 60 none "$work/torchrun" $small
call_head fd99::1 10.99.0.1
job "a name of two families" head:7121 3 1 60 none $small
silence fd99::1
job "a name whose first address is silent" head:7122 3 1 60 none $small
job "a name whose first address is silent, port unknown" - 3 1 60 none "$work/torchrun" $small
job "a name whose IPv6 address is silent, IPv4 alone" head:7123 3 1 60 none env TUTTI_FAMILY=ipv4 $small
unsilence fd99::1
silence 10.99.0.1
job "a name whose IPv4 address is silent, IPv6 alone" head:7124 3 1 60 none env TUTTI_FAMILY=ipv6 $small
unsilence 10.99.0.1
call_head 10.99.0.1
says='TUTTI_RENDEZVOUS: host "head" has no IPv6 address, which TUTTI_FAMILY=ipv6 asks for: give it one'
job "a name without an address of the family" head:7125 3 1 60 none \
    bash -c "TUTTI_FAMILY=ipv6 $small 2>&1 | tee /dev/stderr | grep -q '$says'"

call_head_as_debian 10.99.0.1
job "a name that is the loopback at home" head:7126 3 1 60 none $small
ip -n ${tag}1 addr add fd99::2/64 dev eth0 # of host 2
for _ in $(seq 50); do ip -n ${tag}1 addr show dev eth0 | grep -q dadfailed && break; sleep 0.1; done
job "a name that is the loopback at home, where an address is refused" head:7127 3 1 60 none $small
job "the same, port unknown" - 3 1 60 none "$work/torchrun" $small
ip -n ${tag}1 addr del fd99::2/64 dev eth0
call_head 10.99.0.9 # and not yet
sed -i 's/head/tail/' /etc/netns/$tag?/hosts
(sleep 1; call_head 10.99.0.1) &
job "a name that is not known yet" head:7128 3 1 60 none $small

make_routed
tag=${tag}r
job "2 hosts that a router leads to" 10.77.0.1:7140 2 2 60 none $small
call_head_as_debian 10.77.0.1
for h in 1 2; do for e in eth0 eth1; do ip -n $tag$h addr add 10.77.0.$h/32 dev $e; done; done # the same for each port
job "2 hosts that a router leads to, and a name that is the loopback at home" head:7141 2 1 60 none $small
tag=${tag%r}

tag=${tag}l
ip netns add ${tag}1
ip -n ${tag}1 link add eth0 type veth peer name eth1
ip -n ${tag}1 addr add fe80::1/64 dev eth0 nodad
for e in lo eth0 eth1; do ip -n ${tag}1 link set $e up; done
job "a host of link-local addresses" - 1 1 60 none env -u TUTTI_RENDEZVOUS -u TUTTI_RANK -u TUTTI_SIZE $small --ranks 2
for i in $(seq 150); do # two link-local addresses each; the last interface has the one of use
    echo "link add a$i type veth peer name b$i"
    echo "link set a$i up"
    echo "link set b$i up"
done | ip -n ${tag}1 -batch -
ip -n ${tag}1 link add wide type veth peer name eth2
ip -n ${tag}1 addr add fd98::1/64 dev wide nodad
for e in wide eth2; do ip -n ${tag}1 link set $e up; done
for _ in $(seq 50); do [ "$(ip -n ${tag}1 -6 -o addr show scope link | wc -l)" -gt 300 ] && break; sleep 0.1; done
job "a host of 300 containers" - 1 1 60 none env -u TUTTI_RENDEZVOUS -u TUTTI_RANK -u TUTTI_SIZE \
    bash -c "TUTTI_LOG=debug $small --ranks 2 --transport tcp 2>&1 | tee /dev/stderr | grep -q 'link to .* at .fd98::1.:[0-9]* is up'"
tag=${tag%l}

# What a rank says (a pattern), in an environment of its own (a command, which knows TUTTI_RANK).
says() { # pattern command
    echo "$2; $small 2>&1 | tee /dev/stderr | grep -q '$1'"
}
job "2 hosts of one name" 10.99.0.1:7150 2 1 60 none bash -c "$(
    says 'shm does not reach from .* give others a TUTTI_HOST_ID of their own' 'export TUTTI_HOST_ID=same')"
job "2 hosts of different families" 10.99.0.1:7151 2 1 60 none bash -c "$(
    says 'tcp does not reach from .* see TUTTI_INTERFACE and TUTTI_FAMILY' \
        '[ $TUTTI_RANK = 0 ] && export TUTTI_FAMILY=ipv4 || export TUTTI_FAMILY=ipv6')"

# The last rank computes while the sockets of eleven others wait in queues for 16.
for h in 1 2 3; do ip netns exec $tag$h sh -c 'echo 16 >/proc/sys/net/core/somaxconn'; done
job "3 hosts x 4 ranks, the last is late" 10.99.0.1:7130 3 4 90 none env TUTTI_TRANSPORTS=tcp TUTTI_LANES=2 \
    TUTTI_ALGO=gather:direct TUTTI_CONNECT_TIMEOUT_MS=3000 $build/tests/misbehave late 8
finish
