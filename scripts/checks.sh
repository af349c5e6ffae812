# Sourced by scripts that check and count: `check TITLE COMMAND...`, `within SECONDS COMMAND...`, `title`, `die`, `count`.

passed=0
failed=0

title() { printf '\n%s (after %d s)\n' "$1" $SECONDS; }
die() { echo "  ✗ $1" >&2; exit 1; }

check() { # check TITLE COMMAND...
    local title=$1
    shift
    if "$@"; then
        echo "  ✓ $title"
        passed=$((passed + 1))
    else
        echo "  ✗ $title"
        failed=$((failed + 1))
    fi
}

within() { # within SECONDS COMMAND...: until it succeeds
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}

count() { # the last line; fails if a check did
    echo
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}
