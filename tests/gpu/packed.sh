# Sourced by run and tune: where PACKED names what tests/gpu/pack built, its libraries that this machine
# lacks are found; those that it has may be newer, as other programs here need them.
if [ -n "${PACKED:-}" ]; then
    PACKED=$(cd "$PACKED" && pwd) || exit 1
    mkdir -p "$PACKED/lacking"
    for library in "$PACKED"/lib/*; do
        /sbin/ldconfig -p | grep -qF "${library##*/} " || ln -sf "$library" "$PACKED/lacking/"
    done
    export PACKED LD_LIBRARY_PATH=$PACKED/lacking:${LD_LIBRARY_PATH:-}
fi
