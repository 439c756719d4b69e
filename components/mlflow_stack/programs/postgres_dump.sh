# Step between `check` and `migrate` of postgres_schema.py, in an image with PostgreSQL's client tools: dumps the schema
# before it is upgraded. `migrate` reports what this step refuses.
set -euo pipefail

refuse() {
  printf 'Refused: %s\n' "$*" >"$WORK/refused"
  exit 0
}

[ "$(cat "$WORK/action")" = upgrade ] || exit 0
file=$DUMPS/$(cat "$WORK/file")
export PGPASSFILE=$WORK/pgpass

command -v pg_dump >/dev/null || refuse "the image for dumps has no pg_dump. Nothing was changed."
rm -f "$DUMPS"/*.partial
# A failed dump changes nothing in the database. To restore into an existing schema, pg_restore needs its own format.
pg_dump --dbname="$(cat "$WORK/connection")" --schema="$(cat "$WORK/schema")" --no-owner --no-privileges \
  --encoding=UTF8 --format=custom --file="$file.partial" ||
  refuse "$DATABASE could not be dumped to the claim with the dumps: the log of the container 'dump' says why." \
    "Nothing was changed. Give the claim room, the user the right to read, or dumps.image a pg_dump of the server's" \
    "version or a later one; then run the same command again."
pg_restore --file=/dev/null "$file.partial" ||
  refuse "the dump of $DATABASE is not whole. Nothing was changed. Run the same command again."
sync "$file.partial"
mv "$file.partial" "$file"
printf 'Dumped %s to %s, %s KiB.\n' "$DATABASE" "$(basename "$file")" "$(($(stat -c %s "$file") / 1024))" >&2
