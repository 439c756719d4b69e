# The step between `check` and `migrate` of mysql_schema.py, in an image with MariaDB's or MySQL's client tools: dumps a
# database before its schema is upgraded, or puts back what an upgrade that was stopped half-way had begun with.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

tool() { command -v "mariadb$1" || command -v "mysql$2"; }

file=$DUMPS/$(cat "$WORK/file")
connection="--defaults-file=$WORK/client.cnf"

case $(cat "$WORK/action") in
upgrade)
  options=(--single-transaction --skip-lock-tables --no-tablespaces --triggers --hex-blob
    --default-character-set=utf8mb4)
  dump=$(tool -dump dump)
  case $dump in *mysqldump) options+=(--set-gtid-purged=OFF) ;; esac
  rm -f "$DUMPS"/*.partial
  # What goes wrong here has changed nothing in the database.
  "$dump" "$connection" "${options[@]}" "$DATABASE" | gzip >"$file.partial" || {
    say "Refused: $DATABASE could not be dumped to the claim with the dumps (see the lines before). Nothing was changed." \
      "Give the claim room or the user the right to read, then run the same command again."
    exit 1
  }
  gzip -dc "$file.partial" | tail -n 1 | grep -q '^-- Dump completed' || {
    say "Refused: the dump of $DATABASE is not whole. Nothing was changed. Run the same command again."
    exit 1
  }
  sync "$file.partial"
  mv "$file.partial" "$file"
  say "Dumped $DATABASE to $(basename "$file"), $(($(stat -c %s "$file") / 1024)) KiB."
  ;;
restore)
  gzip -t "$file" || {
    say "Refused: $(basename "$file") is not there or not whole, and $DATABASE is half upgraded. Nothing was changed." \
      "Restore another dump from before by hand."
    exit 1
  }
  client=$(tool "" "")
  { cat "$WORK/undo.sql" && gzip -dc "$file"; } | "$client" "$connection" --default-character-set=utf8mb4 "$DATABASE" || {
    say "Refused: $(basename "$file") could not be put back (see the lines before). It is untouched. Run the same command" \
      "again once the cause is gone."
    exit 1
  }
  say "Put $(basename "$file") back into $DATABASE."
  ;;
esac
