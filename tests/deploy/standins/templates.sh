#!/bin/sh
# What the pinned nginx image's entrypoint does with templates, for names that match the filter, and with scripts.
set -eu
names=$(env | cut -d= -f1 | grep -E "$NGINX_ENVSUBST_FILTER" | sed 's/.*/${&}/' | tr '\n' ' ')
for template in /etc/nginx/templates/*.template; do
  [ -e "$template" ] || continue
  name=$(basename "$template" .template)
  envsubst "$names" < "$template" > "$NGINX_ENVSUBST_OUTPUT_DIR/$name"
done
for script in /docker-entrypoint.d/*.sh; do
  [ ! -x "$script" ] || "$script"
done
exec "$@"
