{{- define "secure-inference-gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "secure-inference-gateway.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (include "secure-inference-gateway.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "secure-inference-gateway.selector" -}}
app.kubernetes.io/name: {{ include "secure-inference-gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "secure-inference-gateway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "secure-inference-gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "secure-inference-gateway.gatewaySelector" -}}
{{ include "secure-inference-gateway.selector" . }}
app.kubernetes.io/component: {{ eq .Values.mode "sidecar" | ternary "application" "gateway" }}
{{- end }}

{{- define "secure-inference-gateway.testSelector" -}}
{{ include "secure-inference-gateway.selector" . }}
app.kubernetes.io/component: test
{{- end }}

{{- define "secure-inference-gateway.serviceAccount" -}}
{{- default (include "secure-inference-gateway.fullname" .) .Values.serviceAccount.name -}}
{{- end }}

{{- define "secure-inference-gateway.image" -}}
{{ required "image.repository is missing" .Values.image.repository }}@{{ required "image.digest is missing: a tag can be moved" .Values.image.digest }}
{{- end }}

{{/* The data port: loopback and plaintext beside an application, TLS on the network otherwise. */}}
{{- define "secure-inference-gateway.dataPort" -}}
{{- if or (eq .Values.mode "sidecar") .Values.terminator.name }}8080{{ else }}8443{{ end -}}
{{- end }}

{{/* A list of {namespace, podLabels} as NetworkPolicy peers. Namespaces by the name label that the API server sets itself. */}}
{{- define "secure-inference-gateway.peers" -}}
{{- range . }}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ .namespace }}
  podSelector:
    {{- if .podLabels }}
    matchLabels: {{- toYaml .podLabels | nindent 6 }}
    {{- else }} {}
    {{- end }}
{{- end }}
{{- end }}

{{/* 2 to the power of ., for the size of a network. */}}
{{- define "secure-inference-gateway.power" -}}
{{- $size := 1 }}{{ range until (int .) }}{{ $size = mul $size 2 }}{{ end }}{{ $size -}}
{{- end }}

{{/* An IPv4 address as a number. */}}
{{- define "secure-inference-gateway.number" -}}
{{- $number := 0 }}{{ range splitList "." . }}{{ $number = add (mul $number 256) (int .) }}{{ end }}{{ $number -}}
{{- end }}

{{/*
One network as an ipBlock. SECURITY: the instance metadata addresses are cut out of every network that holds them, and refused by
themselves: whoever reaches them can ask for the node's identity.
*/}}
{{- define "secure-inference-gateway.ipBlock" -}}
{{- $cidr := . }}
{{- $except := list }}
{{- if regexMatch "^(0{0,4}:|0{0,2}64:ff9b:)" $cidr }}
{{- fail (printf "networkPolicy: `%s` holds an IPv4 address in IPv6 form: write it as IPv4" $cidr) }}
{{- end }}
{{- if not (contains ":" $cidr) }}
{{- $parts := splitList "/" $cidr }}
{{- range splitList "." (index $parts 0) }}
{{- if or (not (regexMatch "^(0|[1-9][0-9]{0,2})$" .)) (gt (int .) 255) }}{{ fail (printf "networkPolicy: `%s` is no network" $cidr) }}{{ end }}
{{- end }}
{{- $size := include "secure-inference-gateway.power" (sub 32 (int (index $parts 1))) | int64 }}
{{- $base := div (include "secure-inference-gateway.number" (index $parts 0) | int64) $size }}
{{- range (list "169.254.169.254" "168.63.129.16") }}
{{- if eq (div (include "secure-inference-gateway.number" . | int64) $size) $base }}
{{- if eq $size 1 }}{{ fail (printf "networkPolicy: `%s` is an instance metadata address: it is never allowed" $cidr) }}{{ end }}
{{- $except = append $except (printf "%s/32" .) }}
{{- end }}
{{- end }}
{{- end }}
- ipBlock:
    cidr: {{ $cidr | quote }}
    {{- with $except }}
    except: {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}

{{/* Allow-list entries {name, cidrs, ports} as egress rules. */}}
{{- define "secure-inference-gateway.egress" -}}
{{- range . }}
- to:
    {{- range .cidrs }}
    {{- include "secure-inference-gateway.ipBlock" . | nindent 4 }}
    {{- end }}
  ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- end }}
{{- end }}

{{/* Name resolution, by the cluster's own resolver alone. */}}
{{- define "secure-inference-gateway.dns" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.networkPolicy.dns.namespace }}
      podSelector:
        matchLabels: {{- toYaml .Values.networkPolicy.dns.podLabels | nindent 10 }}
    {{- range .Values.networkPolicy.dns.cidrs }}
    {{- include "secure-inference-gateway.ipBlock" . | nindent 4 }}
    {{- end }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}
