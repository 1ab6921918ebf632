#!/bin/sh
# Run by the image's entrypoint: gives nginx the token that Ray's head asks for.
set -eu
umask 077
printf 'proxy_set_header X-Ray-Authorization "Bearer %s";\n' "$(cat /run/secrets/ray_token)" > /tmp/ray_token.conf
