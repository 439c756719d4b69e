# Makes the data folder of a MariaDB server, once: a run that is killed leaves nothing that counts, and the next one
# starts anew. The administrator comes in by the password that the server is told at each start, and by no other.
set -eu
data=$1
[ -d "$data" ] && exit 0
rm -rf "$data.new"
mariadb-install-db --no-defaults --datadir="$data.new" --tmpdir=/tmp --skip-name-resolve --skip-test-db --force \
  --auth-root-authentication-method=normal
sync
mv "$data.new" "$data"
