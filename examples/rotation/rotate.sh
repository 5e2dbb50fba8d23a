#!/bin/sh
# Changes the passwords of connections and static roles, and says what came of each. Run again it does again only what is
# not done: a role whose password is younger than MIN_AGE seconds is left alone.
#
#   ROOTS="orders billing" STATIC_ROLES="batch report" rotate.sh
#
# BAO_ADDR and BAO_TOKEN as the bao command takes them; MOUNT (database), MIN_AGE (3600), WAIT (60: seconds in which a
# change has to come to its end), VERIFY (1: log in with PostgreSQL's psql at VERIFY_HOST, VERIFY_PORT, VERIFY_DATABASE).
# Exit status: 0 if all is well, 1 if something failed; the last line is a JSON report.
set -u
: "${MOUNT:=database}" "${MIN_AGE:=3600}" "${WAIT:=60}" "${VERIFY:=0}" "${ROOTS:=}" "${STATIC_ROLES:=}"
: "${VERIFY_HOST:=localhost}" "${VERIFY_PORT:=5432}" "${VERIFY_DATABASE:=postgres}" "${BAO:=bao}"
rotated='' young='' failed=''

note() { echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) $*" >&2; }
list() { # words as JSON
    first=1
    printf '['
    for word in $1; do
        [ $first = 1 ] || printf ','
        printf '"%s"' "$word"
        first=0
    done
    printf ']'
}

# Tries until it is done or the time is over. A change that was interrupted is settled by the server meanwhile.
change() {
    begun=$(date +%s)
    while ! "$BAO" write -f "$MOUNT/$1" >/dev/null 2>"$errors"; do
        if [ $(($(date +%s) - begun)) -ge "$WAIT" ]; then
            note "$1: $(tr '\n' ' ' <"$errors")"
            return 1
        fi
        sleep 2
    done
    note "$1: done"
}

age() { # seconds since the last change of a static role
    last=$("$BAO" read -field=last_vault_rotation "$MOUNT/static-roles/$1" 2>/dev/null) || return 1
    [ -n "$last" ] && [ "$last" != null ] && [ "$last" != '<nil>' ] || { echo 999999999; return; }
    echo $(($(date +%s) - $(date -d "$last" +%s)))
}

opens() {
    [ "$VERIFY" = 1 ] || return 0
    user=$("$BAO" read -field=username "$MOUNT/static-creds/$1") || return 1
    PGPASSWORD=$("$BAO" read -field=password "$MOUNT/static-creds/$1") || return 1
    export PGPASSWORD
    psql -X -q -h "$VERIFY_HOST" -p "$VERIFY_PORT" -U "$user" -d "$VERIFY_DATABASE" -c 'SELECT 1' >/dev/null 2>"$errors"
    result=$?
    unset PGPASSWORD
    return $result
}

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

for name in $STATIC_ROLES; do
    if ! since=$(age "$name"); then
        note "static-roles/$name cannot be read"
        failed="$failed static-roles/$name"
    elif [ "$since" -lt "$MIN_AGE" ]; then
        young="$young static-roles/$name"
    elif change "rotate-role/$name" && opens "$name"; then
        rotated="$rotated static-roles/$name"
    else
        failed="$failed static-roles/$name"
    fi
done
for name in $ROOTS; do
    # A session with the new password is what status shows next.
    if change "rotate-root/$name" && "$BAO" read "$MOUNT/status/$name" >/dev/null 2>"$errors"; then
        rotated="$rotated config/$name"
    else
        failed="$failed config/$name"
    fi
done

printf '{"rotated":%s,"left_alone":%s,"failed":%s}\n' "$(list "$rotated")" "$(list "$young")" "$(list "$failed")"
[ -z "$failed" ]
