# hosts.sh: networks of the guest, as functions to be sourced. Two ways:
#
#   make_hosts KIND [RAILS]   two hosts a and b: each a set of namespaces (network, hostname, IPC) under
#                             /run/hosts/NAME, joined by RAILS (1) wires. Rail r is the veth pair ar-br:
#
#         host a                                            host b
#         ar 10.0.r.1/24 fd00:r::1/64   ---- wire ----   br 10.0.r.2/24 fd00:r::2/64
#         rxe_ar or siw_ar                               rxe_br or siw_br
#
#   make_pair KIND            one host, the wire a0-b0 with 10.0.0.1 and 10.0.0.2 at its ends; routes
#                             force what goes from one to the other onto the wire. For kernels whose
#                             rxe sends everything from the initial network namespace (6.1 and 6.12 do).
#
# KIND: rxe, siw, or none (no RDMA device). The MTU is 4,200, so that rxe's is 4,096.
#
#   on HOST command...        runs it on that host (after make_pair: simply runs it)
#   wire RAIL netem-words...  both directions: `wire 0 delay 1ms loss 1%`; `wire 0` ends it
#   spoil HOST RAIL ...       only what that host sends: `spoil a 0 loss 100%`
#   rail RAIL up|down         host a's end of it
#   forget_neighbours RAIL    nothing gets through from now on, and no hardware address is known
#   know_neighbours RAIL      both ends' hardware addresses are known for good
#   device HOST RAIL          the name of the RDMA device there

make_devices() { # kind rails
    local host rail
    device_kind=$1
    [ "$1" = none ] && return 0
    for host in a b; do
        for rail in $(seq 0 $(($2 - 1))); do
            # a device belongs to the network namespace of its interface, whoever adds it
            on "$host" rdma link add "$1_$host$rail" type "$1" netdev "$host$rail" || return
        done
    done
}

device() { echo "${device_kind}_$1$2"; }

make_hosts() { # kind [rails]
    local host rail number rails=${2:-1}
    hosts=a,b
    ip link set lo up
    mkdir -p /run/hosts /run/netns
    for host in a b; do
        mkdir -p "/run/hosts/$host"
        touch /run/hosts/$host/{net,uts,ipc}
        unshare --net="/run/hosts/$host/net" --uts="/run/hosts/$host/uts" \
            --ipc="/run/hosts/$host/ipc" sh -c "
                hostname $host
                # duplicate address detection would keep the first GID from working for two seconds
                echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
                # a rail that goes down keeps its addresses, as when a cable is pulled
                echo 1 >/proc/sys/net/ipv6/conf/default/keep_addr_on_down
                ip link set lo up" || return
        touch "/run/netns/$host" # where ip -n looks
        mount --bind "/run/hosts/$host/net" "/run/netns/$host" || return
    done
    for rail in $(seq 0 $((rails - 1))); do
        ip link add a$rail type veth peer name b$rail || return
        number=1
        for host in a b; do
            ip link set $host$rail netns $host mtu 4200 || return
            ip -n $host addr add 10.0.$rail.$number/24 dev $host$rail
            ip -n $host addr add fd00:$rail::$number/64 dev $host$rail nodad
            ip -n $host link set $host$rail up
            grep -q "^10.0.$rail.$number " /etc/hosts || echo "10.0.$rail.$number $host" >>/etc/hosts
            number=$((number + 1))
        done
    done
    make_devices "$1" "$rails"
}

make_pair() { # kind
    local each
    hosts=
    ip link set lo up
    ip link add a0 address 02:00:00:00:00:01 type veth peer name b0 address 02:00:00:00:00:02 || return
    for each in all a0 b0; do
        echo 1 >/proc/sys/net/ipv4/conf/$each/accept_local
        echo 0 >/proc/sys/net/ipv4/conf/$each/rp_filter
        echo 1 >/proc/sys/net/ipv4/conf/$each/arp_ignore
        echo 2 >/proc/sys/net/ipv4/conf/$each/arp_announce
        echo 0 >/proc/sys/net/ipv6/conf/$each/accept_dad
    done
    for each in 1:a0:2:b0 2:b0:1:a0; do
        # our number, our interface, the peer's number, the peer's interface
        set -- "$1" ${each//:/ }
        ip link set "$3" mtu 4200
        ip addr add "10.0.0.$2/32" dev "$3"
        ip link set "$3" up
        # what arrives from the wire is looked up in the local table, what goes to the peer's address
        # leaves by the wire before the local table sees it
        ip rule add pref "$2" iif "$3" lookup local
        ip route add "10.0.0.$4/32" dev "$3" src "10.0.0.$2" table "10$2"
        ip rule add pref "1$2" to "10.0.0.$4" lookup "10$2"
    done
    ip neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev a0 nud permanent
    ip neigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev b0 nud permanent
    ip rule add pref 100 lookup local
    ip rule del pref 0
    make_devices "$1" 1
}

on() { # host command...
    local host=$1
    shift
    if [ -z "$hosts" ]; then
        "$@"
    else
        nsenter --net=/run/hosts/$host/net --uts=/run/hosts/$host/uts --ipc=/run/hosts/$host/ipc -- "$@"
    fi
}

spoil() { # hosts rail netem-words...
    local ends=$1 rail=$2 host
    shift 2
    for host in $ends; do
        if [ $# -eq 0 ]; then
            on $host tc qdisc del dev $host$rail root 2>/dev/null
        else
            on $host tc qdisc replace dev $host$rail root netem limit 100000 "$@" || return
        fi
    done
    return 0
}

wire() { # rail netem-words...
    spoil "a b" "$@"
}

rail() { # rail up|down
    on a ip link set "a$1" "$2"
}

forget_neighbours() { # rail
    local host
    wire "$1" loss 100% || return
    for host in a b; do
        ip -n $host neigh flush dev "$host$1"
    done
}

know_neighbours() { # rail
    local each us them number
    for each in a:b:2 b:a:1; do
        IFS=: read -r us them number <<<"$each"
        # the third column of a brief listing is the hardware address
        ip -n $us neigh replace "10.0.$1.$number" dev "$us$1" nud permanent \
            lladdr "$(ip -n $them -br link show dev "$them$1" | awk '{print $3}')" || return
    done
}
