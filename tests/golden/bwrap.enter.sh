#!/bin/bash
# Runs a command of this run in its image on one node (bwrap):
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
named=(LAUNCHER_ATTEMPT LAUNCHER_MASTER_ADDR LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT NODE_RANK RANK WORLD_SIZE)
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
if [[ $action == login ]]; then # as enroot does: read the image's /etc/environment, then start a login shell
    while IFS= read -r line || [[ -n $line ]]; do
        line=${line#"${line%%[![:space:]]*}"}
        [[ $line =~ ^([A-Za-z_][A-Za-z0-9_]*)=(.*)$ && $line != ENROOT_* ]] || continue
        name=${BASH_REMATCH[1]}
        value=$(expand "${BASH_REMATCH[2]}")
        [[ ! $value =~ ^[\"\'](.*)[\"\'][[:space:]]*$ ]] || value=${BASH_REMATCH[1]}
        export "$name=$value"
    done </etc/environment
    # shellcheck disable=SC2016 # the login shell's arguments, not this one's
    exec -a "-${SHELL##*/}" "$SHELL" -c 'exec "$@"' "$SHELL" bash "$run_dir/enter.sh" inside "${@:2}"
fi

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
scratch=${TMPDIR:-/tmp}
remedy='name another disk of the nodes: scratch in the cluster profile'
[[ $scratch == /* ]] || fail "the scratch directory '$scratch' is not an absolute path: $remedy"
base=$scratch/launcher-$EUID
container_dir=$base/$name
[[ -d $base ]] || (umask 077 && mkdir -p -- "$base") || fail "cannot make $base: $remedy"
[[ -O $base && ! -L $base ]] || fail "$base belongs to another user: $remedy"
# A process holds the gate while it unpacks, enters or removes a container, and a container's lock while it is inside.
exec {gate}>>"$base/gate" || fail "cannot write to $base: $remedy"
flock "$gate" || fail "cannot lock $base/gate: $remedy"

# ---- bubblewrap: a directory with mounts that only the processes inside see
mounts=(
    --bind
    /home/ada/gpt/runs/small/20260921-120000-abcd
    /home/ada/gpt/runs/small/20260921-120000-abcd
    --bind
    /fsx
    /fsx
    --ro-bind
    '/data/a b'
    /mnt/data
)
host_files=(/etc/hosts /etc/hostname /etc/resolv.conf /etc/machine-id)

unpack() {
    local root=$container_dir.partial/root program file
    for program in bwrap unsquashfs; do
        command -v "$program" >/dev/null || fail "$program is not on the PATH of this node: install it, or choose another runtime"
    done
    require_space "$container_dir.partial"
    unsquashfs -n -user-xattrs -d "$root" "$image" >/dev/null 2>"$container_dir.partial/log" ||
        fail "cannot unpack $image to $base: $(tail -n 2 "$container_dir.partial/log")"
    # Without these permissions a user other than root could neither write to directories nor remove them.
    ((EUID == 0)) || find "$root" -type d ! -perm -u=rwx -exec chmod u+rwx {} +
    mkdir -p "$root"/{dev,proc,sys,tmp,run,etc}
    for file in "${host_files[@]}"; do [[ ! -e $file ]] || make_mount_point "$root$file"; done
    while read -r _ file; do make_mount_point "$root$file"; done < <(driver_files "$root")
    add_account "$root"
    [[ ! -L /etc/localtime ]] || cp -P --remove-destination /etc/localtime "$root/etc/localtime"
    [[ -e $root/etc/environment ]] || : >"$root/etc/environment"
    register_driver "$root"
}

register_driver() { # add the driver to the image's list of libraries, where programs such as Triton look for libcuda.so.1
    local words=() path file
    while read -r path file; do words+=(--ro-bind "$path" "$file"); done < <(driver_files "$1")
    [[ -z ${words[*]-} ]] || bwrap --bind "$1" / --dev-bind /dev /dev --bind /proc /proc "${words[@]}" -- \
        /bin/sh -c 'PATH=/usr/sbin:/sbin:/usr/bin:/bin exec ldconfig' >/dev/null 2>&1 ||
        echo "launcher: the image's ldconfig does not list the libraries of the driver" >&2
}

make_mount_point() { # make an empty file to mount on, in place of a link that would lead elsewhere
    [[ -f $1 && ! -L $1 ]] || { mkdir -p "${1%/*}" && rm -f -- "$1" && : >"$1"; }
}

add_account() { # add the user and the group where the image lacks them: programs look up their name and home
    local file entry id home
    for file in passwd group; do
        [[ $file == passwd ]] && id=$EUID || id=$(id -g)
        entry=$(getent "$file" "$id") && ! grep -q "^[^:]*:[^:]*:$id:" "$1/etc/$file" 2>/dev/null && echo "$entry" >>"$1/etc/$file"
    done
    IFS=: read -r _ _ _ _ _ home _ < <(getent passwd "$EUID")
    [[ -z $home || -e $1$home ]] || { mkdir -p "$1$home" && chmod 700 "$1$home"; }
}

driver_files() { # print each file of NVIDIA's driver with its path in the image, where this node has a GPU
    local library target=/usr/lib64 name kind path program
    [[ -e /dev/nvidiactl ]] || return 0
    for library in "$1"/usr/lib/*-linux-gnu; do [[ ! -d $library ]] || target=${library#"$1"}; done
    while read -r name kind path; do
        case $name in
            libnvidia-container*) continue ;;
            libcuda.so.* | libcudadebugger.so.* | libnvidia-*.so.* | libnvcuvid.so.* | libnvoptix.so.*) ;;
            *) continue ;;
        esac
        path=${path##*=> }
        [[ $kind == *64* || $path == *64* ]] && echo "$(readlink -f "$path") $target/$name"
    done < <(PATH=$PATH:/usr/sbin:/sbin ldconfig -p)
    for program in nvidia-smi nvidia-debugdump nvidia-cuda-mps-control nvidia-cuda-mps-server; do
        path=$(command -v "$program") && echo "$path /usr/bin/$program"
    done
}

enter() {
    local file path home=/ shell='' user=''
    local words=(--die-with-parent --clearenv --bind "$container_dir/root" / --dev-bind /dev /dev --bind /proc /proc --ro-bind /sys /sys)
    words+=(--bind "$container_dir/tmp" /tmp --perms 0755 --tmpfs /run)
    for file in "${host_files[@]}"; do [[ ! -e $file ]] || words+=(--ro-bind "$file" "$file"); done
    while read -r path file; do words+=(--ro-bind "$path" "$file"); done < <(driver_files "$container_dir/root")
    words+=("${mounts[@]}" --remount-ro /)
    IFS=: read -r user _ _ _ _ home shell < <(getent passwd "$EUID")
    [[ -x $container_dir/root$shell && -n $shell ]] || shell=/bin/sh
    words+=(--setenv HOME "${home:-/}" --setenv USER "$user" --setenv LOGNAME "$user" --setenv SHELL "$shell")
    words+=(--setenv TERM "$(printenv TERM)" --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
    # bwrap's first process would die of a signal that is meant for the program, and the program with it.
    trap '' "${signals[@]}"
    exec {lock}<&-
    exec bwrap "${words[@]}" -- bash "$run_dir/enter.sh" login "$@"
}

pass_on() {
    local inside=''
    read -r inside _ <"/proc/$child/task/$child/children"
    [[ -z $inside ]] || kill -s "$1" "$inside"
} 2>/dev/null

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
