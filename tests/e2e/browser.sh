#!/bin/sh
# Runs PROGRAM of the Debian root filesystem ROOT, which stays as it is, with the arguments given. HOME is the same inside
# and outside; nothing else of the machine can be written, and no name resolves.
set -eu
mkdir -p "$HOME/root"
exec unshare --mount sh -eu -c '
    mount -t tmpfs browser "$HOME/root"
    cd "$HOME/root"
    mkdir upper work merged
    mount -t overlay -o "lowerdir=$ROOT,upperdir=$PWD/upper,workdir=$PWD/work" browser merged
    cd merged
    mkdir -p ".$HOME"
    mount --bind "$HOME" ".$HOME"
    mount --rbind /dev dev
    mount --bind /proc proc
    exec chroot . "$PROGRAM" "$@"
' sh "$@"
