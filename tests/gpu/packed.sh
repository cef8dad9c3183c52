# What run, tune and pack share, which source it.

# Is there a GPU? Its driver's devices are files; dxg is that of a Windows host.
gpu_is_there() { # [directory]
    compgen -G "${1:-/dev}/nvidia[0-9]*" >/dev/null || [ -e "${1:-/dev}/dxg" ]
}

# Sets a build directory up, or gives these options to one that is there: it may be of other times.
configure() { # directory option...
    if [ -f "$1/build.ninja" ]; then meson configure "$@"; else meson setup "$@"; fi
}

# Where PACKED names what tests/gpu/pack built, its libraries that this machine lacks are found; those
# that it has may be newer, as other programs here need them.
if [ -n "${PACKED:-}" ]; then
    PACKED=$(cd "$PACKED" && pwd) || exit 1
    mkdir -p "$PACKED/lacking"
    for library in "$PACKED"/lib/*; do
        /sbin/ldconfig -p | grep -qF "${library##*/} " || ln -sf "$library" "$PACKED/lacking/"
    done
    export PACKED LD_LIBRARY_PATH=$PACKED/lacking${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
