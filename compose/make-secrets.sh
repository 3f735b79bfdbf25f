#!/bin/sh
# Writes the secrets of compose.yaml below secrets/: random ones, and what follows from them. It never overwrites a file:
# to change a secret, remove its file and those that contain it, and run this again.
#   ./make-secrets.sh [--directory DIR] [--self-signed HOST] [--database HOST:PORT] [--redis HOST:PORT] [--cache HOST:PORT]
# --self-signed makes a certificate that no browser trusts, for a try; else put yours there: tls_certificate, tls_key.
# The others say where the servers are, if not in compose's containers; for TLS, see docs/security.md.
set -eu
umask 077

directory="$(dirname "$0")/secrets" host= database=postgres:5432 redis=redis:6379 cache=cache:6379
while [ $# -gt 0 ]; do
    case "$1" in
        --directory) directory="${2:?--directory needs a directory}"; shift 2 ;;
        --self-signed) host="${2:?--self-signed needs a host name}"; shift 2 ;;
        --database) database="${2:?--database needs HOST:PORT}"; shift 2 ;;
        --redis) redis="${2:?--redis needs HOST:PORT}"; shift 2 ;;
        --cache) cache="${2:?--cache needs HOST:PORT}"; shift 2 ;;
        *) echo "make-secrets.sh: unknown argument $1: see the top of the script" >&2; exit 2 ;;
    esac
done
command -v openssl >/dev/null || { echo "make-secrets.sh: openssl is not installed" >&2; exit 1; }

# Nobody else of this machine comes past the directory. The files in it are readable, because the users of the containers
# that they are mounted into are not the one who runs this.
mkdir -p "$directory"
chmod 700 "$directory"
cd "$directory"

# keep NAME: writes standard input to a file that is not there yet, whole or not at all.
keep() {
    if [ -e "$1" ]; then
        cat >/dev/null
        return
    fi
    cat >"$1.new"
    chmod 444 "$1.new"
    mv "$1.new" "$1"
    echo "made $1" >&2
}
random() { openssl rand -hex 24 | tr -d '\n'; }
hash() { printf '%s' "$(cat "$1")" | openssl dgst -sha256 -r | cut -d' ' -f1; }

for name in postgres_password owner_password worker_password web_password monitor_password dashboards_password \
    redis_worker_password redis_exporter_password redis_flower_password redis_monitor_password redis_keda_password cache_password \
    nightshift_flower_password nightshift_notify_secret nightshift_metrics_token grafana_admin_password \
    grafana_secret_key operator_password; do
    random | keep "$name"
done

# One URL a role: each process is given its own under the name of the setting.
printf 'postgresql://postgres:%s@%s/nightshift' "$(cat postgres_password)" "$database" | keep admin_database_url
for role in owner worker web; do
    printf 'postgresql://nightshift_%s:%s@%s/nightshift' "$role" "$(cat "${role}_password")" "$database" |
        keep "${role}_database_url"
done
for role in worker exporter flower; do
    printf 'redis://%s:%s@%s/0' "$role" "$(cat "redis_${role}_password")" "$redis" | keep "${role}_redis_url"
done
printf 'redis://nightshift:%s@%s/0' "$(cat cache_password)" "$cache" | keep nightshift_cache_url

# Our processes see their own keys, and none of the commands that endanger a server. INFO is for metrics. All channels,
# because Redis lets who subscribes by pattern do so only if he has the very same pattern.
user() {
    name="$1" secret="$2"
    shift 2
    echo "user $name on #$(hash "$secret") $* &* +@all -@admin -@dangerous +info"
}
# Asking workers, which is remote control: queues for the answers, and messages that others left unacknowledged.
asking='%R~nightshift:* ~nightshift:*pidbox* ~nightshift:unacked* ~nightshift:_kombu.binding_deadlines'
others() {
    echo "user monitor on #$(hash redis_monitor_password) -@all +auth +hello +select +ping +info +config|get" \
        '+client|setname +latency|latest +latency|histogram +slowlog|get +slowlog|len'
    echo 'user health on nopass -@all +auth +hello +ping'
}
broker() {
    echo 'user default off'
    user worker redis_worker_password '~nightshift:*'
    # No queue of work can be written or emptied by those who only look.
    user exporter redis_exporter_password "$asking ~nightshift:login-limit* ~nightshift:worker* ~nightshift:health"
    user flower redis_flower_password "$asking ~nightshift:*celeryev*"
    # On Kubernetes: it asks in a script how long a list is, and a script may do no more than its user.
    echo "user keda on #$(hash redis_keda_password) ~nightshift:* -@all +auth +hello +select +ping +eval +type +llen"
    others
}
cache() {
    echo 'user default off'
    user nightshift cache_password '~nightshift:*'
    others
}
broker | keep redis_acl
cache | keep cache_acl
printf '{"redis://monitor@redis:6379": "%s", "redis://monitor@cache:6379": "%s"}' \
    "$(cat redis_monitor_password)" "$(cat redis_monitor_password)" | keep redis_monitor_passwords

# The login at nginx, and the one with which nginx speaks to Flower: people log in once.
printf 'operator:%s\n' "$(openssl passwd -6 -stdin <operator_password)" | keep nginx_htpasswd
printf 'proxy_set_header Authorization "Basic %s";\n' \
    "$(printf 'operator:%s' "$(cat nightshift_flower_password)" | openssl base64 -A)" | keep nginx_flower_login

if [ -n "$host" ] && [ ! -e tls_key ] && [ ! -e tls_certificate ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -subj "/CN=$host" \
        -addext "subjectAltName=DNS:$host" -keyout tls_key.made -out tls_certificate.made 2>/dev/null
    keep tls_key <tls_key.made
    keep tls_certificate <tls_certificate.made
    rm -f tls_key.made tls_certificate.made
fi

# Others give these. A receiver of alerts that is not used keeps its placeholder, and is taken out of alertmanager.yml.
for name in alertmanager_smtp_password alertmanager_pagerduty_key alertmanager_webhook_token; do
    printf 'not-set' | keep "$name"
done
printf 'http://127.0.0.1:1/not-set' | keep alertmanager_slack_url
for name in alertmanager_smtp_password alertmanager_pagerduty_key alertmanager_webhook_token alertmanager_slack_url; do
    case "$(cat "$name")" in *not-set) echo "replace $directory/$name: it is a placeholder" >&2 ;; esac
done
for name in tls_certificate tls_key; do
    [ -e "$name" ] || echo "put $directory/$name there: nginx does not start without it" >&2
done
