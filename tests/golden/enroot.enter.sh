#!/bin/bash
# Runs a command of this run in its image on one node (enroot):
#     enter.sh rank NAME COMMAND...    a rank's program: if it cannot start, its record says why
#     enter.sh run NAME COMMAND...     any other command of the run, in the same container
#     enter.sh remove NAME             after the job: remove the unpacked image
# The first task of a job on a node unpacks the image; the others wait for it. Nothing needs more rights than the user has.
set -u
trap '' USR1 USR2 # sites and users let Slurm send these to every process of a step; they do not end an unpacking
umask 077
image=/images/sha256/0123456789abcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd.sqsh
run_dir=/home/ada/gpt/runs/small/20260921-120000-abcd
# Variables of the job that override the image's. The job's other variables count where the image does not set them.
named=(HF_HOME LAUNCHER_ATTEMPT LAUNCHER_MASTER_ADDR LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT NODE_RANK RANK WORLD_SIZE)
signals=(TERM INT HUP USR1 USR2)
action=$1
# What the ranks of this node leave about their ends, for the verdict.
printf -v ends '%s/attempts/%s/ranks/node-%04d.jsonl' "$run_dir" "${LAUNCHER_ATTEMPT-}" "${SLURM_NODEID:-${NODE_RANK:-0}}"

fail() { # print the reason, and write it to the rank's record for the verdict
    local host=${HOSTNAME:-unknown} rank=${SLURM_PROCID:-${RANK-}} exception
    echo "launcher: $host: $*" >&2
    if [[ $action == rank && -n $rank ]]; then
        exception="{\"type\": \"ContainerError\", \"message\": $(json_string "$*"), \"where\": null, \"traceback\": \"\"}"
        printf '\n{"version": 1, "rank": %d, "host": %s, "pid": %d, "outcome": "failed", "reason": null, "iteration": null, "time": %s, "exception": %s, "cause": "container"}\n' \
            "$rank" "$(json_string "$host")" "$$" "$(date +%s)" "$exception" >>"$ends"
    fi
    exit 3
}

json_string() { # print a string as JSON
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    printf '"%s"' "${text//[[:cntrl:]]/ }"
}

expand() { # replace $NAME and ${NAME} by this process's variables; nothing is executed
    local rest=$1 text='' name
    while [[ $rest =~ ^([^$]*)[$]([A-Za-z_][A-Za-z0-9_]*|[{][A-Za-z_][A-Za-z0-9_]*[}])(.*)$ ]]; do
        name=${BASH_REMATCH[2]//[\{\}]/}
        text+=${BASH_REMATCH[1]}${!name-}
        rest=${BASH_REMATCH[3]}
    done
    printf '%s' "$text$rest"
}

# ---- inside the container: actions with which this script calls itself
if [[ $action == inside ]]; then # the job's variables arrive on standard input, so that no command line and no file shows a value
    while IFS= read -r -d '' pair; do
        name=${pair%%=*}
        [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || continue
        if [[ " ${named[*]} " != *" $name "* ]]; then
            case $name in
                _ | LANG | LANGUAGE | LC_ALL | OLDPWD | PWD | SHLVL) continue ;; # the container has its own value, or none
            esac
            [[ ! -v $name ]] || continue
        fi
        export "${pair?}"
    done
    cd -- "$run_dir" || exit 3
    # Signals that bwrap's first process ignores are ignored here too. `env` can undo that (coreutils 8.31), as can Python.
    reset=(env "--default-signal=$(IFS=,; echo "${signals[*]}")")
    "${reset[@]}" true 2>/dev/null || reset=(python3 -c 'import os, signal, sys
for name in (*sys.argv[1].split(","), "PIPE"):
    signal.signal(getattr(signal, "SIG" + name), signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])' "$(IFS=,; echo "${signals[*]}")")
    exec "${reset[@]}" "${@:2}" </dev/null
fi

# ---- the directory: owned by this user alone, on the node's own disk
node=${SLURMD_NODENAME:-${HOSTNAME:-node}}
own=$2 # RUN-JOB-ATTEMPT
name=$own-$node
scratch=$(expand '/raid/$USER')
scratch=${scratch/#\~/${HOME-}}
remedy='name another disk of the nodes: scratch in the cluster profile'
[[ $scratch == /* ]] || fail "the scratch directory '$scratch' is not an absolute path: $remedy"
base=$scratch/launcher-$EUID
container_dir=$base/$name
[[ -d $base ]] || (umask 077 && mkdir -p -- "$base") || fail "cannot make $base: $remedy"
[[ -O $base && ! -L $base ]] || fail "$base belongs to another user: $remedy"
# A process holds the gate while it unpacks, enters or removes a container, and a container's lock while it is inside.
exec {gate}>>"$base/gate" || fail "cannot write to $base: $remedy"
flock "$gate" || fail "cannot lock $base/gate: $remedy"

# ---- enroot unpacks, mounts and starts; its hooks see the variables of the host
mounts=(
    --mount
    /home/ada/gpt/runs/small/20260921-120000-abcd:/home/ada/gpt/runs/small/20260921-120000-abcd:x-create=auto,rbind
    --mount
    /fsx:/fsx:x-create=auto,rbind
    --mount
    '/data/a\040b:/mnt/data:x-create=auto,rbind,ro'
)
settings=(ENROOT_MOUNT_HOME=no ENROOT_ROOTFS_WRITABLE=yes) # whatever the site's settings are
settings+=("ENROOT_DATA_PATH=$base/enroot")

enroot() { env "${settings[@]}" enroot "$@"; }

unpack() {
    local data
    command -v unsquashfs >/dev/null && type -P enroot >/dev/null || fail "enroot or unsquashfs is not on the PATH of this node: install it, or choose another runtime"
    data=$(enroot info | sed -n 's/^ *ENROOT_DATA_PATH=//p') || fail "enroot does not work on this node: $(enroot info 2>&1 | tail -n 2)"
    [[ $data != *[[:space:]]* ]] || fail "enroot cannot unpack to '$data', a path with white space: $remedy"
    require_space "$data"
    : >"$container_dir.partial/enroot"
    enroot remove --force "$name" >/dev/null 2>&1
    enroot create --name "$name" "$image" >"$container_dir.partial/log" 2>&1 || fail "cannot unpack $image to $data: $(tail -n 2 "$container_dir.partial/log")"
    # Replaces the image's own start script, which may run an ENTRYPOINT.
    # shellcheck disable=SC2016 # the container's arguments, not this script's
    echo 'exec "$@"' >"$container_dir.partial/rc"
}

enter() {
    local tmp=${container_dir//\\/\\134}
    tmp=${tmp// /\\040}/tmp
    exec {lock}<&-
    exec env "${settings[@]}" enroot start --rc "$container_dir/rc" --mount "$tmp:/tmp:x-create=dir,rbind" "${mounts[@]}" \
        "$name" bash "$run_dir/enter.sh" inside "$@"
}

pass_on() { kill -s "$1" "$child" 2>/dev/null; }

require_space() { # compare the size of the image's files, in bytes, with the free space at a path
    local need free
    need=$(unsquashfs -lln "$image" | awk '/^-/ { sum += int(($3 + 4095) / 4096) * 4096 } END { printf "%.0f", sum }')
    free=$(df --output=avail -B1 -- "$1" | tail -n 1)
    ((need < free)) || fail "$1 has $((free >> 20)) MiB free, but $image unpacks to $((need >> 20)) MiB: free some space, or $remedy"
}

delete_tree() { # remove a directory, even one whose permissions in the image forbid writing
    [[ -e $1 ]] || return 0
    rm -rf --one-file-system -- "$1" 2>/dev/null || { chmod -R u+rwX -- "$1"; rm -rf --one-file-system -- "$1"; }
}

remove_container() { # remove a container, whether it was unpacked completely or not
    [[ ! -e $base/$1/enroot && ! -e $base/$1.partial/enroot ]] || enroot remove --force "$1" >/dev/null 2>&1
    delete_tree "$base/enroot/$1"
    delete_tree "$base/$1"
    delete_tree "$base/$1.partial"
    rm -f -- "$base/$1.lock"
}

is_idle() { # whether no process is in container $1, and none has entered it for $2 seconds
    local lock
    exec {lock}<"$base/$1.lock" || return 0
    flock --nonblock "$lock" && (($(date +%s) - $(stat -c %Y -- "$base/$1.lock") >= $2))
    local status=$?
    exec {lock}<&-
    return "$status"
}

ask_about() { # JOB ...: asks the controller once about all of them; job_has_ended looks at the answer
    asked=" $* " states=""
    (($# == 0)) || states=$(timeout 20 squeue --noheader --jobs="$(IFS=,; echo "$*")" --format="%A %T" 2>&1) && return
    # The only job that is asked about and not known is an error; of several it is left out.
    [[ $# == 1 && $states == *"Invalid job id"* ]] || asked=""
}
job_has_ended() { # whether the controller has said that job $1 is over, or gives its nodes back; without an answer it is not
    local job state
    [[ $asked == *" $1 "* ]] || return 1
    while read -r job state; do
        [[ $job != "$1" || $state == COMPLETING ]] || return 1
    done <<<"$states"
}

of_a_job='^(launcher-[0-9a-f]+-[0-9a-f]+-([0-9]+))-([0-9]+)-'
is_left() { # whether nothing will enter container $1 again: its job is over, or it is of an earlier attempt of this run in this job
    [[ $1 =~ $of_a_job ]] || return 1
    if [[ ${BASH_REMATCH[2]} == "${SLURM_JOB_ID-}" ]]; then
        [[ $own == "${BASH_REMATCH[1]}"-* ]] && ((10#${BASH_REMATCH[3]} < 10#${own##*-}))
    else
        job_has_ended "${BASH_REMATCH[2]}"
    fi
}

collect_garbage() { # remove containers that ended jobs have left; of a job of which Slurm says nothing after ten minutes
    local lockfile other idle=() jobs=()
    for lockfile in "$base"/launcher-*.lock; do
        other=${lockfile##*/} other=${other%.lock}
        [[ -e $lockfile ]] && is_idle "$other" 0 || continue
        if is_idle "$other" 600; then
            remove_container "$other"
        elif [[ $other =~ $of_a_job ]]; then
            idle+=("$other")
            [[ ${BASH_REMATCH[2]} == "${SLURM_JOB_ID-}" ]] || jobs+=("${BASH_REMATCH[2]}")
        fi
    done
    ask_about ${jobs[@]+"${jobs[@]}"}
    for other in ${idle[@]+"${idle[@]}"}; do ! is_left "$other" || remove_container "$other"; done
}

if [[ $action == remove ]]; then
    [[ ! -e $container_dir.lock ]] || ! is_idle "$name" 0 || remove_container "$name"
    exit 0
fi

# ---- unpack: under a partial name until it is complete, so that an interrupted unpacking is never used
if [[ ! -d $container_dir ]]; then
    [[ -r $image ]] || fail "cannot read the image $image on this node: is it on a file system that every node sees?"
    collect_garbage
    remove_container "$name"
    : >"$container_dir.lock" && mkdir "$container_dir.partial" "$container_dir.partial/tmp" || fail "cannot write to $base: $remedy"
    echo "launcher: unpacking $image on $node" >&2
    read -r began _ </proc/uptime # bash's SECONDS follows the node's clock, which may be set
    unpack
    mv -T -- "$container_dir.partial" "$container_dir" || fail "cannot write to $base: $remedy"
    read -r ended _ </proc/uptime
    echo "launcher: unpacked in $((${ended%.*} - ${began%.*})) s to $container_dir" >&2
fi
touch -- "$container_dir.lock" || fail "cannot write to $base: $remedy"
exec {lock}<"$container_dir.lock"
flock --shared "$lock"
exec {gate}>&-

# ---- enter; this shell stays, to hold the lock and to pass on signals that are sent to it alone
enter "${@:3}" < <(env -0) &
child=$!
for each in "${signals[@]}"; do
    # shellcheck disable=SC2064 # the name of this signal, expanded now
    trap "pass_on $each" "$each"
done
while :; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || break # a signal to this shell ends `wait`, not the command
done
if [[ $action == rank && $status != 0 ]]; then
    { ended=$(<"$ends"); } 2>/dev/null
    [[ $ended == *"{\"rank\": ${SLURM_PROCID:-$RANK}, \"status\""* ]] || fail "the container did not start, or was killed (status $status); see the last lines of the log"
fi
exit "$status"
