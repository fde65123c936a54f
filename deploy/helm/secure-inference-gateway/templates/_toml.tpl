{{/* One value of TOML. JSON's strings and lists are TOML's too; numbers of a values file are floats and are whole again here. */}}
{{- define "secure-inference-gateway.toml.value" -}}
{{- if or (kindIs "float64" .) (kindIs "int64" .) (kindIs "int" .) }}
{{- if eq (float64 .) (floor .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else }}{{ toJson . }}{{ end -}}
{{- end }}

{{/* A key, bare where TOML lets it be. */}}
{{- define "secure-inference-gateway.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end }}

{{/* The keys of one table, then its tables. `path` is its name, `table` what it holds. */}}
{{- define "secure-inference-gateway.toml.table" -}}
{{- $path := .path }}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "secure-inference-gateway.toml.key" $key }} = {{ include "secure-inference-gateway.toml.value" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $inner := printf "%s.%s" $path (include "secure-inference-gateway.toml.key" $key) }}

[{{ $inner }}]
{{- include "secure-inference-gateway.toml.table" (dict "path" $inner "table" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* gateway.toml. What the chart owns is set last: no value can move a listener off loopback or a log off its disk. */}}
{{- define "secure-inference-gateway.toml" -}}
{{- $settings := deepCopy .Values.settings }}
{{- $sidecar := eq .Values.mode "sidecar" }}
{{- $server := $settings.server | default dict }}
{{- $_ := set $server "data" (printf "%s:%s" ($sidecar | ternary "127.0.0.1" "0.0.0.0") (include "secure-inference-gateway.dataPort" .)) }}
{{- $_ = set $server "control" "127.0.0.1:8081" }}
{{- $_ = set $server "ops" "0.0.0.0:9090" }}
{{- if not $sidecar }}
{{- if .Values.terminator.name }}{{ $_ = set $server "terminator" (dict "name" .Values.terminator.name "peers" .Values.terminator.peers) }}
{{- else }}{{ $_ = set $server "tls" (dict "certificate" "/etc/gateway/tls/tls.crt" "key" "/etc/gateway/tls/tls.key") }}{{ end }}
{{- end }}
{{- $_ = set $settings "server" $server }}
{{- $policies := dict "directory" "/etc/gateway/policies" }}
{{- if .Values.policies.invariants }}{{ $_ = set $policies "invariants" "/etc/gateway/invariants.toml" }}{{ end }}
{{- if .Values.policies.image }}{{ $_ = set $policies "watch_s" 0 }}{{ end }}
{{- $_ = set $settings "policies" $policies }}
{{- $_ = set $settings.audit "directory" "/var/lib/gateway/audit" }}
{{- $_ = set $settings.audit "origin" .Values.audit.origin }}
{{- $limits := $settings.limits | default dict }}
{{- if and (not $sidecar) (eq ($limits.store | default "memory") "redis") (not $limits.replicas) }}
{{- $_ = set $limits "replicas" (eq .Values.autoscaling.type "none" | ternary .Values.replicas .Values.autoscaling.maxReplicas) }}
{{- end }}
{{- $_ = set $settings "limits" $limits -}}
# Made by the chart. GATEWAY__SERVER__INSTANCE, GATEWAY__AUDIT__DIRECTORY and GATEWAY__AUDIT__ORIGIN in the pod add its name.
{{- range $name, $section := $settings }}
{{- if kindIs "slice" $section }}
{{- range $section }}

[[{{ $name }}]]
{{- include "secure-inference-gateway.toml.table" (dict "path" $name "table" .) }}
{{- end }}
{{- else if kindIs "map" $section }}

[{{ $name }}]
{{- include "secure-inference-gateway.toml.table" (dict "path" $name "table" $section) }}
{{- end }}
{{- end }}
{{- end }}
