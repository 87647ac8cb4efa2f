#!/bin/sh
# runsc as containerd-shim-runc-v2 wants it. Debian packages gVisor's runsc without its
# own shim, and runc's differs from that in two things:
# - The standard streams of a pod's containers are those of `runsc start`, where runc
#   takes them from `create`.
# - All containers of a pod have the sandbox's process, so none is the container's own,
#   ending when it ends. gVisor's shim asks with `runsc wait`.
# So `create` leaves a process behind that holds the streams until `start` has taken
# them over, then waits for the container and ends as it did.
#
# RUNSC: the program. RUNSC_STATE: a directory for what is between the calls.
set -eu

root= bundle= pid_file= verb= before= last=
for word; do
    case $last in
    --root) root=$word ;;
    --bundle) bundle=$word ;;
    --pid-file) pid_file=$word ;;
    esac
    case $word in
    create | start | kill) verb=${verb:-$word} ;;
    esac
    before=$last
    last=$word
done
id=$last
if [ "$verb" = kill ]; then
    id=$before # the signal is last
fi
started=$RUNSC_STATE/$id

runsc() {
    "$RUNSC" --ignore-cgroups --platform=systrap "$@"
}

# Lives until the container ends. Its standard streams are the container's.
keeper() {
    # Open for writing, too: whoever writes finds a reader until it is gone.
    exec 4<>"$started"
    read -r _ <&4
    exec </dev/null >/dev/null 2>&1
    rm -f "$started" "$started.pid"
    exec 4<&-
    status=$(runsc --root "$root" wait "$id" |
        sed -n 's/.*"exitStatus": *\([0-9]*\).*/\1/p')
    exit "${status:-255}"
}

case $verb in
create)
    runsc "$@"
    grep -q '"io.kubernetes.cri.container-type": *"container"' "$bundle/config.json" || exit 0
    mkfifo "$started"
    exec 3<&0 # a process in the background gets no standard input of its own accord
    keeper <&3 3<&- &
    echo $! >"$started.pid"
    printf %s $! >"$pid_file"
    ;;
start)
    if [ -p "$started" ]; then
        held=/proc/$(cat "$started.pid")/fd
        status=0
        runsc "$@" <"$held/0" >"$held/1" 2>"$held/2" || status=$?
        echo >"$started"
        exit "$status"
    else
        runsc "$@"
    fi
    ;;
kill)
    case " $* " in
    *" --all "*) runsc "$@" || true ;; # of an ended container, where runc has no objection
    *) runsc "$@" ;;
    esac
    if [ -p "$started" ]; then
        echo >"$started" # it never will
    fi
    ;;
*)
    runsc "$@"
    ;;
esac
