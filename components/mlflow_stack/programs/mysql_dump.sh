# Step between `check` and `migrate` of mysql_schema.py, in an image with MariaDB's or MySQL's client tools: dumps a
# database before its schema is upgraded, or restores the dump of an interrupted upgrade. `migrate` reports what this
# step refuses.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

refuse() {
  printf 'Refused: %s\n' "$*" >"$WORK/refused"
  exit 0
}

tool() { command -v "mariadb$1" || command -v "mysql$2"; }

action=$(cat "$WORK/action")
[ "$action" != refuse ] || exit 0
file=$DUMPS/$(cat "$WORK/file")
connection="--defaults-file=$WORK/client.cnf"

case $action in
upgrade)
  options=(--single-transaction --skip-lock-tables --no-tablespaces --triggers --hex-blob
    --default-character-set=utf8mb4)
  dump=$(tool -dump dump) || refuse "the image for dumps has neither mariadb-dump nor mysqldump. Nothing was changed."
  case $dump in *mysqldump) options+=(--set-gtid-purged=OFF) ;; esac
  rm -f "$DUMPS"/*.partial
  # A failed dump changes nothing in the database.
  "$dump" "$connection" "${options[@]}" "$DATABASE" | gzip >"$file.partial" ||
    refuse "$DATABASE could not be dumped to the claim with the dumps: the log of the container 'dump' says why." \
      "Nothing was changed. Give the claim room or the user the right to read, then run the same command again."
  gzip -dc "$file.partial" | tail -n 1 | grep -q '^-- Dump completed' ||
    refuse "the dump of $DATABASE is not whole. Nothing was changed. Run the same command again."
  sync "$file.partial"
  mv "$file.partial" "$file"
  say "Dumped $DATABASE to $(basename "$file"), $(($(stat -c %s "$file") / 1024)) KiB."
  ;;
restore)
  gzip -t "$file" ||
    refuse "$(basename "$file") is not there or not whole, and $DATABASE is half upgraded. Nothing was changed." \
      "Restore another dump from before by hand."
  client=$(tool "" "") || refuse "the image for dumps has neither mariadb nor mysql. Nothing was changed."
  { cat "$WORK/undo.sql" && gzip -dc "$file"; } | "$client" "$connection" --default-character-set=utf8mb4 "$DATABASE" ||
    refuse "$(basename "$file") could not be put back: the log of the container 'dump' says why. It is untouched." \
      "Run the same command again once the cause is gone."
  say "Put $(basename "$file") back into $DATABASE."
  ;;
esac
