# Creates the data folder of a MariaDB server, once. A killed run leaves nothing that counts, and the next one starts
# over. The administrator logs in only with the password that the server gets at each start.
set -eu
data=$1
[ -d "$data" ] && exit 0
rm -rf "$data.new"
mariadb-install-db --no-defaults --datadir="$data.new" --tmpdir=/tmp --skip-name-resolve --skip-test-db --force \
  --auth-root-authentication-method=normal
sync
mv "$data.new" "$data"
