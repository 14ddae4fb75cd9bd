# shellcheck shell=bash disable=SC2154
# What scripts/kafka and scripts/mongodb have in common; both read it, it is no program. It wants Linux (/proc),
# bash, coreutils and util-linux (flock, setsid). Whoever reads it has set `name`, which opens each
# message, and `here`, the directory of both.

# What is fetched once, and which ports are given to whom.
services="${XDG_CACHE_HOME:-$HOME/.cache}/tallyflow-services"
# Ports are picked from here: below those that Linux gives to outgoing connections (32768 and above), so
# that a server which is stopped for a while finds its port free again.
readonly PORT_MIN=20000 PORT_MAX=31999
# How long one fetch may take, and how long a second one waits for the first.
readonly FETCH_S=600

say() { printf '%s: %s\n' "$name" "$*" >&2; }

# The work failed.
fail() {
    say "$*"
    exit 1
}

# It was asked for in the wrong way.
wrong() {
    say "$* ('scripts/$name help' tells what there is)"
    exit 2
}

# whole NUMBER FROM TO WHAT: refuses what is no whole number between the two.
whole() {
    if [[ ! $1 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($1 < $2 || $1 > $3)); then
        wrong "$4 is a whole number from $2 to $3, not '$1'"
    fi
}

# java_17 PROGRAM: whether java or javac is there and new enough.
java_17() {
    local said
    said="$("$1" -version 2>&1)" || return 1
    [[ $said =~ (version \"|javac )([0-9]+) ]] && ((BASH_REMATCH[2] >= 17))
}

# fetch_once FOLDER WHAT FUNCTION: has FUNCTION fill a directory, which becomes $services/FOLDER when it is
# whole. Of two at once the second waits for the first and uses what that has fetched.
fetch_once() {
    local folder="$services/$1" what=$2 fill=$3 lock part
    if [[ -d $folder ]]; then return; fi
    mkdir -p "$services"
    exec {lock}>"$services/$1.lock"
    if ! flock --nonblock "$lock"; then
        say "$what is being fetched by another process: waiting for it"
        flock --wait "$FETCH_S" "$lock" || fail "the other process has not fetched $what within $FETCH_S s"
    fi
    if [[ ! -d $folder ]]; then
        say "fetching $what"
        # What an interrupted one has left.
        rm -rf "$services/.part-$1"
        part="$services/.part-$1"
        mkdir "$part"
        # Without the lock, which whatever it starts would go on to hold.
        if ! (exec {lock}>&-; "$fill" "$part") >&2; then
            rm -rf "$part"
            fail "could not fetch $what; what Maven says stands above"
        fi
        mv "$part" "$folder"
    fi
    exec {lock}>&-
}

# copy_jars DIRECTORY DEPENDENCY...: the jars of the dependencies, with all that they need to run, into
# DIRECTORY/lib. A dependency is GROUP:ARTIFACT:VERSION, with a second GROUP:ARTIFACT that it does without.
copy_jars() {
    local directory=$1 one group artifact version without_group without_artifact
    shift
    type -P mvn >/dev/null || {
        say "Maven is needed to fetch it: there is no mvn here"
        return 1
    }
    {
        printf '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>\n'
        printf '<groupId>none</groupId><artifactId>none</artifactId><version>0</version><dependencies>\n'
        for one in "$@"; do
            IFS=: read -r group artifact version without_group without_artifact <<<"$one"
            printf '<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version>' \
                "$group" "$artifact" "$version"
            if [[ -n $without_group ]]; then
                printf '<exclusions><exclusion><groupId>%s</groupId><artifactId>%s</artifactId></exclusion></exclusions>' \
                    "$without_group" "$without_artifact"
            fi
            printf '</dependency>\n'
        done
        printf '</dependencies></project>\n'
    } >"$directory/pom.xml"
    timeout --kill-after=10 "$FETCH_S" mvn --batch-mode --quiet --strict-checksums --file "$directory/pom.xml" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$directory/lib" </dev/null 2>&1 |
        # It colours even nothing at all.
        sed 's/\x1b\[[0-9;]*m//g'
}

# listens PORT: whether somebody listens there.
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# pick_ports HOW_MANY DIRECTORY: free ports, written to DIRECTORY/ports. Nobody else is given them for as long
# as that file names them, whether something listens there or not.
pick_ports() {
    local lock port owner tries=0 found=" "
    mkdir -p "$services/ports"
    exec {lock}>"$services/ports/lock"
    flock --wait 30 "$lock" || fail "$services/ports/lock has been held for 30 s by another process"
    while (($(wc -w <<<"$found") < $1)); do
        if ((++tries > 1000)); then fail "there are no $1 free ports between $PORT_MIN and $PORT_MAX"; fi
        port=$((PORT_MIN + (RANDOM * 32768 + RANDOM) % (PORT_MAX - PORT_MIN + 1)))
        if [[ $found == *" $port "* ]]; then continue; fi
        owner="$(cat "$services/ports/$port" 2>/dev/null || true)"
        if [[ -n $owner && $owner != "$2" ]] && grep -qsw "$port" "$owner/ports"; then continue; fi
        if listens "$port"; then continue; fi
        printf '%s\n' "$2" >"$services/ports/$port"
        found+="$port "
    done
    printf '%s\n' "$found" >"$2/ports"
    exec {lock}>&-
}

# running FILE ARGUMENT: the process that FILE names, if it is alive and was started with that argument: the
# number may have gone to another process since.
running() {
    local pid
    pid="$(cat "$1" 2>/dev/null)" && [[ -n $pid ]] || return 1
    tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$2" || return 1
    printf '%s\n' "$pid"
}

# start_server FILE ARGUMENT LOG COMMAND...: starts a command that outlives the shell, notes its process in FILE and
# returns once `running FILE ARGUMENT` knows it, or it has ended. It must get no descriptor of a lock.
start_server() {
    local file=$1 argument=$2 log=$3 pid
    shift 3
    (
        exec {directory_lock}>&-
        exec setsid "$@" </dev/null >>"$log" 2>&1
    ) &
    pid=$!
    # Or the shell would tell of its end in words of its own.
    disown "$pid"
    printf '%s\n' "$pid" >"$file"
    for _ in {1..500}; do
        if running "$file" "$argument" >/dev/null || ! kill -0 "$pid" 2>/dev/null; then return; fi
        sleep 0.02
    done
}

# use_directory DIRECTORY: makes it `dir`, absolute, and locks it against a second command at the same time.
use_directory() {
    dir="$(cd "$1" && pwd -P)"
    exec {directory_lock}>"$dir/lock"
    flock --wait 180 "$directory_lock" || fail "another command has been busy with $dir for 180 s"
}

# end_process PID SECONDS: asks a process to end, and kills it if it has not within the time.
end_process() {
    local deadline=$((SECONDS + $2))
    kill -TERM "$1" 2>/dev/null || return 0
    while alive "$1"; do
        if ((SECONDS >= deadline)); then
            say "process $1 did not end within $2 s: killed"
            kill_process "$1"
            return
        fi
        sleep 0.05
    done
}

# As a crash would end it. Returns once it is gone.
kill_process() {
    kill -KILL "$1" 2>/dev/null || return 0
    for _ in {1..400}; do
        if ! alive "$1"; then return; fi
        sleep 0.05
    done
    fail "process $1 is still there 20 s after it was killed"
}

# A process that has ended and was not waited for is none any more.
alive() { [[ -n $(tr -d '\0' 2>/dev/null <"/proc/$1/cmdline") ]]; }

# The end of a log, for whoever wonders why a server has not come up.
show_log() {
    say "the end of $1:"
    tail -n 30 "$1" >&2 || true
}

# down_below DIRECTORY: ends every server whose directory lies below, and removes them all: what tests that
# were stopped in the middle have left.
down_below() {
    local file
    while read -r file; do
        "$here/$name" down --dir "$(dirname "$file")" || true
    done < <(find "$1" -maxdepth 6 -type f \( -name cluster -o -name server \) 2>/dev/null)
    rm -rf "$1"
}

# cargo_tests ARGUMENT...: `cargo test` of the workspace. That there is no such test is a failure, which cargo
# would take for a success.
cargo_tests() {
    local listed
    listed="$(cargo test --locked --workspace "$@" -- --list)"
    [[ $listed == *": test"* ]] || fail "there is no test to run: cargo test --workspace $*"
    cargo test --locked --workspace "$@" -- --nocapture
}
