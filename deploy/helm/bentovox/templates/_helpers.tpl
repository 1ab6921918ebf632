{{/* The name of all objects of one part of the release. */}}
{{- define "bentovox.name" -}}
{{- printf "%s-%s" .release .part | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "bentovox.selector" -}}
app.kubernetes.io/name: bentovox
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bentovox.labels" -}}
{{ include "bentovox.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/*
The parts of the release as a list: one for each role, and for chat one for each model. A part has a
name, its role, the role's values, the model if there is one, and whether it asks other roles.
*/}}
{{- define "bentovox.parts" -}}
{{- $parts := list (dict "name" "gateway" "role" "gateway" "values" .Values.gateway "asks" true) -}}
{{- if .Values.chat.enabled -}}
{{- range .Values.chat.models -}}
{{- $values := mergeOverwrite (deepCopy $.Values.chat) (omit (deepCopy .) "name" "model") -}}
{{- $parts = append $parts (dict "name" (printf "chat-%s" .name) "role" "chat" "values" $values "model" (.model | default "") "asks" false) -}}
{{- end -}}
{{- end -}}
{{- range $role := list "speech" "transcription" "conversation" -}}
{{- $values := index $.Values $role -}}
{{- if $values.enabled -}}
{{- $parts = append $parts (dict "name" $role "role" $role "values" $values "asks" (eq $role "conversation")) -}}
{{- end -}}
{{- end -}}
{{- dict "parts" $parts | toYaml -}}
{{- end -}}

{{- define "bentovox.image" -}}
{{- $digest := index .root.Values.image.digests .role | default "" -}}
{{- $repository := required "image.repository is needed: the prefix of your images' names, such as ghcr.io/me/bentovox" .root.Values.image.repository -}}
{{- if $digest -}}
{{- printf "%s/%s@%s" $repository .role $digest -}}
{{- else -}}
{{- $tag := required (printf "image.digests.%s is needed, or image.tag for all: there is no default tag" .role) .root.Values.image.tag -}}
{{- $gpu := index .values "gpu" | default dict -}}
{{- printf "%s/%s:%s-%s" $repository .role $tag (ternary "cuda13" "cpu" (gt (int ($gpu.count | default 0)) 0)) -}}
{{- end -}}
{{- end -}}

{{/* The roles' addresses, as environment variables for the roles that ask them. */}}
{{- define "bentovox.backends" -}}
{{- $root := .root -}}
{{- $asking := .role | upper -}}
{{- range $role := list "chat" "speech" "transcription" "conversation" -}}
{{- $urls := list -}}
{{- range (include "bentovox.parts" $root | fromYaml).parts -}}
{{- if eq .role $role -}}
{{- $urls = append $urls (printf "k8s://%s:http" (include "bentovox.name" (dict "release" $root.Release.Name "part" .name))) -}}
{{- end -}}
{{- end -}}
{{- if and $urls (not (and (eq $asking "CONVERSATION") (eq $role "conversation"))) }}
BENTOVOX_{{ $asking }}__{{ $role | upper }}: {{ $urls | toJson | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the gateway serves to the outside: all but /metrics. */}}
{{- define "bentovox.paths" -}}
paths: [/v1, /translate, /detect, /languages, /tokenize, /detokenize, /openapi.json, /livez, /healthz, /readyz, /health]
{{- end -}}

{{/* The most pods that a part may have. */}}
{{- define "bentovox.most" -}}
{{- $scaling := .autoscaling | default dict -}}
{{- if and $scaling.kind (ne $scaling.kind "none") -}}{{ $scaling.maxReplicas | default 1 }}{{- else -}}{{ .replicas }}{{- end -}}
{{- end -}}

{{/*
The number of current requests for a role: from all gateways, and from the conversation role, whose metrics
every gateway repeats with the label `backend`.
*/}}
{{- define "bentovox.load" -}}
{{- $gateway := include "bentovox.name" (dict "release" .root.Release.Name "part" "gateway") -}}
{{- $asked := printf "bentovox_asked_requests{asked=%q,namespace=%q,service=%q,backend%%s}" .role .root.Release.Namespace $gateway -}}
{{- $own := printf $asked "=\"\"" -}}
{{- $repeated := printf $asked "!=\"\"" -}}
sum({{ $own }}) + (sum({{ $repeated }}) / count({{ $own }}) or vector(0)) or vector(0)
{{- end -}}

{{/* Whether a role may be scaled to zero: then requests wait for it. */}}
{{- define "bentovox.toZero" -}}
{{- range list .Values.chat .Values.speech .Values.transcription -}}
{{- if and .enabled (eq (toString (.autoscaling | default dict).kind) "keda") (eq (int (.autoscaling.minReplicas | default 0)) 0) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* A part's settings as variables: the chart's, overridden by values.settings, then by the part's own. */}}
{{- define "bentovox.settings" -}}
{{- $values := .root.Values -}}
{{- $part := .part -}}
{{- $set := dict "BENTOVOX_PROFILE" $values.profile -}}
{{- if $part.asks -}}
{{- $set = merge $set (include "bentovox.backends" (dict "root" .root "role" $part.role) | fromYaml) -}}
{{- end -}}
{{- if eq $part.role "gateway" -}}
{{- if $values.keys.secret -}}
{{- $_ := set $set "BENTOVOX_GATEWAY__KEYS_FILE" "/run/secrets/bentovox/keys" -}}
{{- else if not $values.keys.openToAll -}}
{{- fail "keys.secret is needed: the name of a Secret whose entry `keys` has one key per line (python -m services.gateway.keys makes them). Or set keys.openToAll to true." -}}
{{- end -}}
{{- $gateways := int (ternary $part.values.autoscaling.maxReplicas $part.values.replicas $part.values.autoscaling.enabled) -}}
{{- $_ := set $set "BENTOVOX_GATEWAY__AFFINITY_AHEAD" (toString (div 8 (max 1 $gateways))) -}}
{{- $hosts := $part.values.hosts -}}
{{- range $front := list $values.ingress $values.httpRoute -}}
{{- if and $front.enabled $front.host -}}
{{- $hosts = append $hosts $front.host -}}
{{- end -}}
{{- end -}}
{{- with $hosts | uniq -}}
{{- $_ := set $set "BENTOVOX_HOSTS" (toJson .) -}}
{{- end -}}
{{- end -}}
{{- if and $part.asks (include "bentovox.toZero" .root) -}}
{{- $_ := set $set (printf "BENTOVOX_%s__HOLD_S" (upper $part.role)) (mul 60 $values.startMinutes) -}}
{{- end -}}
{{- if eq $part.role "chat" -}}
{{- with $part.model -}}
{{- $_ := set $set "BENTOVOX_CHAT__MODEL" . -}}
{{- end -}}
{{- $count := int (($part.values.gpu | default dict).count | default 0) -}}
{{- if gt $count 0 -}}
{{- $arguments := list "--gpu-memory-utilization" "0.9" "--tensor-parallel-size" (toString $count) -}}
{{- $_ := set $set "BENTOVOX_CHAT__ARGS" (toJson $arguments) -}}
{{- end -}}
{{- end -}}
{{- mergeOverwrite $set (deepCopy $values.settings) (deepCopy ($part.values.settings | default dict)) | toYaml -}}
{{- end -}}
