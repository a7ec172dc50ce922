# Sourced by the end-to-end tests: what they say again and again. The server
# that tests/run-all made for the test is $SERVER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${SERVER:?is set by tests/run-all; by hand: SERVER=NAME, after tests/server up NAME}"

# in_server [-u USER] COMMAND…: runs it there, all streams and the exit status pass through.
in_server() {
	local user=root
	if [ "$1" = -u ]; then user=$2; shift 2; fi
	tests/server run "$SERVER" -u "$user" -- "$@"
}

# inside [-u USER] <<'EOF': a script for bash in the server, with the functions below.
inside() { { declare -f settle sink fail equal; cat; } | in_server "$@" bash -euo pipefail -s; }

fail() { echo "FAIL: $*" >&2; exit 1; }

# equal WHAT GOT WANT
equal() { [ "$2" = "$3" ] || fail "$1: got «$2», want «$3»"; }

# settle: waits until Postfix has delivered all that was submitted. pickup(8)
# is told by postdrop, so there is no moment in which a message is in neither queue.
settle() {
	local i
	# A reload may end pickup(8) just as it is told of a message: it looks by itself once a minute (master.cf).
	for i in {1..1800}; do
		if [ -z "$(find /var/spool/postfix/{maildrop,incoming,active} -type f -print -quit)" ]; then return; fi
		sleep 0.05
	done
	fail "mail is still queued: $(postqueue -p)"
}

# sink [REGEX]: how many messages are in the sink, or how many contain REGEX.
sink() { if [ $# = 0 ]; then find /var/mail-sink -type f ! -name '.*' | wc -l; else { grep -rlE -- "$1" /var/mail-sink || :; } | wc -l; fi; }
