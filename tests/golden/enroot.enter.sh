#!/bin/bash
# How a command of this run gets into its image on one node (enroot):
#     enter.sh rank NAME COMMAND...    a rank's program: if it cannot start, its record says why
#     enter.sh run NAME COMMAND...     any other command of the run, in the same container
#     enter.sh remove NAME             the job is over: take away what was unpacked
# The image is unpacked once for each node and job, by whoever comes first; the others wait. Nothing is done with more
# rights than the user has.
set -u
umask 077
image=/images/sha256/0123456789abcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd.sqsh
run_dir=/home/ada/gpt/runs/small/20260921-120000-abcd
# The job's variables that beat the image's; of the others, those that the image does not set.
named=(HF_HOME LAUNCHER_ATTEMPT LAUNCHER_MASTER_ADDR LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT NODE_RANK RANK WORLD_SIZE)
signals=(TERM INT HUP USR1 USR2)
verb=$1

fail() { # the reason, for people in the log and for the verdict in the rank's record
    local host=${HOSTNAME:-unknown} rank=${SLURM_PROCID:-${RANK-}} record exception
    echo "launcher: $host: $*" >&2
    if [[ $verb == rank && -n $rank ]]; then
        printf -v record '%s/attempts/%s/ranks/%04d.json' "$run_dir" "$LAUNCHER_ATTEMPT" "$rank"
        exception="{\"type\": \"ContainerError\", \"message\": $(json "$*"), \"where\": null, \"traceback\": \"\"}"
        printf '{"version": 1, "rank": %d, "host": %s, "pid": %d, "outcome": "failed", "reason": null, "iteration": null, "time": %s, "exception": %s, "cause": "container"}\n' \
            "$rank" "$(json "$host")" "$$" "$(date +%s)" "$exception" >"$record.tmp" && mv -f "$record.tmp" "$record"
    fi
    exit 3
}

json() { # a string of JSON
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    printf '"%s"' "${text//[[:cntrl:]]/ }"
}

expand() { # $NAME and ${NAME} by this process's variables, as text: nothing is executed
    local rest=$1 text='' name
    while [[ $rest =~ ^([^$]*)[$]([A-Za-z_][A-Za-z0-9_]*|[{][A-Za-z_][A-Za-z0-9_]*[}])(.*)$ ]]; do
        name=${BASH_REMATCH[2]//[\{\}]/}
        text+=${BASH_REMATCH[1]}${!name-}
        rest=${BASH_REMATCH[3]}
    done
    printf '%s' "$text$rest"
}

# ---- inside the container: verbs with which this script calls itself
if [[ $verb == inside ]]; then # the job's variables come on standard input: no command line and no file shows a value
    while IFS= read -r -d '' pair; do
        name=${pair%%=*}
        [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || continue
        if [[ " ${named[*]} " != *" $name "* ]]; then
            case $name in
                _ | LANG | LANGUAGE | LC_ALL | OLDPWD | PWD | SHLVL) continue ;; # the container has its own, or none
            esac
            [[ ! -v $name ]] || continue
        fi
        export "${pair?}"
    done
    cd -- "$run_dir" || exit 3
    # What bwrap's first process ignores is ignored here, too; `env` can undo that (coreutils 8.31), and Python.
    reset=(env "--default-signal=$(IFS=,; echo "${signals[*]}")")
    "${reset[@]}" true 2>/dev/null || reset=(python3 -c 'import os, signal, sys
for name in (*sys.argv[1].split(","), "PIPE"):
    signal.signal(getattr(signal, "SIG" + name), signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])' "$(IFS=,; echo "${signals[*]}")")
    exec "${reset[@]}" "${@:2}" </dev/null
fi

# ---- where: a directory of this user's alone, on the node's own disk
node=${SLURMD_NODENAME:-${HOSTNAME:-node}}
name=$2-$node
scratch=$(expand '/raid/$USER')
scratch=${scratch/#\~/${HOME-}}
remedy='name another disk of the nodes: scratch in the cluster profile'
[[ $scratch == /* ]] || fail "the scratch directory '$scratch' is no absolute path: $remedy"
base=$scratch/launcher-$EUID
place=$base/$name
[[ -d $base ]] || (umask 077 && mkdir -p -- "$base") || fail "cannot make $base: $remedy"
[[ -O $base && ! -L $base ]] || fail "$base is somebody else's: $remedy"
# Whoever unpacks, enters or removes holds the gate meanwhile; whoever is in a container holds that one's lock.
exec {gate}>>"$base/gate" || fail "cannot write to $base: $remedy"
flock "$gate" || fail "cannot lock $base/gate: $remedy"

# ---- enroot: it unpacks, mounts and starts; its hooks see the variables of the host's side
mounts=(
    --mount
    /home/ada/gpt/runs/small/20260921-120000-abcd:/home/ada/gpt/runs/small/20260921-120000-abcd:x-create=auto,rbind
    --mount
    /fsx:/fsx:x-create=auto,rbind
    --mount
    '/data/a\040b:/mnt/data:x-create=auto,rbind,ro'
)
settings=(ENROOT_MOUNT_HOME=no ENROOT_ROOTFS_WRITABLE=yes) # whatever the site's are
settings+=("ENROOT_DATA_PATH=$base/enroot")

enroot() { env "${settings[@]}" enroot "$@"; }

unpack() {
    local data
    command -v unsquashfs >/dev/null && type -P enroot >/dev/null || fail "enroot or unsquashfs is not on the PATH of this node: install it, or choose another runtime"
    data=$(enroot info | sed -n 's/^ *ENROOT_DATA_PATH=//p') || fail "enroot does not work on this node: $(enroot info 2>&1 | tail -n 2)"
    [[ $data != *[[:space:]]* ]] || fail "enroot cannot unpack to '$data', a path with white space: $remedy"
    room "$data"
    : >"$place.partial/enroot"
    enroot remove --force "$name" >/dev/null 2>&1
    enroot create --name "$name" "$image" >"$place.partial/log" 2>&1 || fail "cannot unpack $image to $data: $(tail -n 2 "$place.partial/log")"
    # In place of the image's own start script, which may run an ENTRYPOINT.
    # shellcheck disable=SC2016 # the container's arguments, not this script's
    echo 'exec "$@"' >"$place.partial/rc"
}

enter() {
    local tmp=${place//\\/\\134}
    tmp=${tmp// /\\040}/tmp
    exec {lock}<&-
    exec env "${settings[@]}" enroot start --rc "$place/rc" --mount "$tmp:/tmp:x-create=dir,rbind" "${mounts[@]}" \
        "$name" bash "$run_dir/enter.sh" inside "$@"
}

pass_on() { kill -s "$1" "$child" 2>/dev/null; }

room() { # refuse to begin what cannot end: the bytes of the image's files against what is free at a path
    local need free
    need=$(unsquashfs -lln "$image" | awk '/^-/ { sum += int(($3 + 4095) / 4096) * 4096 } END { printf "%.0f", sum }')
    free=$(df --output=avail -B1 -- "$1" | tail -n 1)
    ((need < free)) || fail "$1 has $((free >> 20)) MiB free, but $image unpacks to $((need >> 20)) MiB: free some, or $remedy"
}

delete() { # a tree of ours, even if the image took away the right to write in it
    [[ -e $1 ]] || return 0
    rm -rf --one-file-system -- "$1" 2>/dev/null || { chmod -R u+rwX -- "$1"; rm -rf --one-file-system -- "$1"; }
}

take_away() { # a container, whole or half unpacked
    [[ ! -e $base/$1/enroot && ! -e $base/$1.partial/enroot ]] || enroot remove --force "$1" >/dev/null 2>&1
    delete "$base/enroot/$1"
    delete "$base/$1"
    delete "$base/$1.partial"
    rm -f -- "$base/$1.lock"
}

deserted() { # whether nobody is in container $1 and nobody has entered it for $2 seconds
    local lock
    exec {lock}<"$base/$1.lock" || return 0
    flock --nonblock "$lock" && (($(date +%s) - $(stat -c %Y -- "$base/$1.lock") >= $2))
    local status=$?
    exec {lock}<&-
    return "$status"
}

sweep() { # containers of jobs that are gone without a chance to clean up
    local lockfile other
    for lockfile in "$base"/launcher-*.lock; do
        other=${lockfile##*/}
        [[ -e $lockfile ]] && deserted "${other%.lock}" 600 && take_away "${other%.lock}"
    done
}

if [[ $verb == remove ]]; then
    [[ ! -e $place.lock ]] || ! deserted "$name" 0 || take_away "$name"
    exit 0
fi

# ---- unpack: the rename makes it count, so that what was killed half way is never taken for whole
if [[ ! -d $place ]]; then
    [[ -r $image ]] || fail "cannot read the image $image here: is it on a file system that every node sees?"
    sweep
    take_away "$name"
    : >"$place.lock" && mkdir "$place.partial" "$place.partial/tmp" || fail "cannot write to $base: $remedy"
    echo "launcher: unpacking $image on $node" >&2
    began=$SECONDS
    unpack
    mv -T -- "$place.partial" "$place" || fail "cannot write to $base: $remedy"
    echo "launcher: unpacked in $((SECONDS - began)) s to $place" >&2
fi
touch -- "$place.lock" || fail "cannot write to $base: $remedy"
exec {lock}<"$place.lock"
flock --shared "$lock"
exec {gate}>&-

# ---- enter; this shell stays: it holds the lock, and passes on what is sent to it alone
enter "${@:3}" < <(env -0) &
child=$!
for each in "${signals[@]}"; do
    # shellcheck disable=SC2064 # the name of this signal
    trap "pass_on $each" "$each"
done
while :; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || break # a signal to this shell ends `wait`, not the command
done
if [[ $verb == rank && $status != 0 ]]; then
    printf -v ended '%s/attempts/%s/ranks/%04d.exit' "$run_dir" "$LAUNCHER_ATTEMPT" "${SLURM_PROCID:-$RANK}"
    [[ -e $ended ]] || fail "the container did not start, or was killed (status $status): the log's last lines say more"
fi
exit "$status"
