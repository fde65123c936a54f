{{/* What a schema cannot say. Each is one sentence that says what to do. Rendered by every workload. */}}
{{- define "secure-inference-gateway.refusals" -}}
{{- $v := .Values }}
{{- if $v.hostNetwork }}{{ fail "hostNetwork is refused: no NetworkPolicy holds on the node's network" }}{{ end }}
{{- if $v.shareProcessNamespace }}{{ fail "shareProcessNamespace is refused: another container could read the gateway's memory" }}{{ end }}
{{- if not $v.settings.audit.key }}{{ fail "settings.audit.key is missing: a reference to the key that signs checkpoints" }}{{ end }}
{{- if not $v.settings.audit.pepper }}{{ fail "settings.audit.pepper is missing: a reference to at least 32 bytes" }}{{ end }}
{{- if not $v.audit.origin }}{{ fail "audit.origin is missing: the prefix of each replica's log name" }}{{ end }}
{{- range $name := list "issuers" "tenants" "backends" "routes" }}
{{- if not (get $v.settings $name) }}{{ fail (printf "settings.%s is empty: nobody could be served" $name) }}{{ end }}
{{- end }}
{{- $sets := 0 }}
{{- range (list $v.policies.files $v.policies.configMap $v.policies.image) }}{{ if . }}{{ $sets = add $sets 1 }}{{ end }}{{ end }}
{{- if ne (int $sets) 1 }}{{ fail "policies: give exactly one of files, configMap and image" }}{{ end }}
{{- if and $v.policies.configMap (not $v.policies.configMapFiles) }}{{ fail "policies.configMapFiles is missing: the files of the set, as paths" }}{{ end }}
{{- if and $v.secrets.csi.enabled (not (and $v.secrets.csi.keyVault $v.secrets.csi.tenantId $v.secrets.csi.clientId $v.secrets.csi.objects)) }}
{{- fail "secrets.csi needs keyVault, tenantId, clientId and objects" }}{{ end }}
{{- range (concat $v.settings.backends (list ($v.settings.secrets | default dict) ($v.settings.directory | default dict) ($v.settings.content_safety | default dict)) ($v.settings.audit_sinks | default list)) }}
{{- if eq (.identity | default "") "managed" }}{{ fail "identity `managed` asks the instance metadata address, which is closed here: use `workload`" }}{{ end }}
{{- end }}
{{- if eq $v.mode "sidecar" }}{{ include "secure-inference-gateway.refusals.sidecar" . }}{{ else }}{{ include "secure-inference-gateway.refusals.network" . }}{{ end }}
{{- end }}

{{- define "secure-inference-gateway.refusals.network" -}}
{{- $v := .Values }}
{{- if not (or $v.tls.secretName $v.terminator.name) }}{{ fail "give tls.secretName, or name the terminator: plaintext beyond loopback is refused" }}{{ end }}
{{- if and $v.tls.secretName $v.terminator.name }}{{ fail "tls.secretName and terminator exclude each other" }}{{ end }}
{{- if and $v.terminator.name (not $v.terminator.peers) }}{{ fail "terminator.peers is missing: the networks that plaintext is taken from" }}{{ end }}
{{- if and (or (gt (int $v.replicas) 1) (ne $v.autoscaling.type "none")) (ne ($v.settings.limits.store | default "memory") "redis") }}
{{- fail "several replicas need settings.limits.store `redis`: in-memory limits would multiply by their number" }}{{ end }}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) }}{{ fail "autoscaling.minReplicas is above maxReplicas" }}{{ end }}
{{- if and (eq $v.autoscaling.type "keda") (not $v.autoscaling.prometheus) }}{{ fail "autoscaling.prometheus is missing: keda asks it" }}{{ end }}
{{- if and $v.workloadIdentity.enabled (not (and $v.workloadIdentity.clientId $v.workloadIdentity.tenantId)) }}
{{- fail "workloadIdentity needs clientId and tenantId" }}{{ end }}
{{- if and $v.httpRoute.enabled (not (and $v.httpRoute.hostnames $v.httpRoute.parentRefs)) }}{{ fail "httpRoute needs hostnames and parentRefs" }}{{ end }}
{{- if and $v.httpRoute.enabled $v.httpRoute.backendTls.enabled $v.tls.secretName (not $v.httpRoute.backendTls.hostname) }}
{{- fail "httpRoute.backendTls.hostname is missing: the name in the data port's certificate" }}{{ end }}
{{- if not $v.networkPolicy.egress }}{{ fail "networkPolicy.egress is empty: name the networks of model endpoints and issuers" }}{{ end }}
{{- range $v.networkPolicy.applications }}
{{- if and (eq .namespace $.Release.Namespace) (not .podLabels) }}
{{- fail "networkPolicy.applications: in the gateway's own namespace name the pods by podLabels" }}{{ end }}
{{- end }}
{{- end }}

{{- define "secure-inference-gateway.refusals.sidecar" -}}
{{- $v := .Values }}
{{- if $v.workloadIdentity.enabled }}{{ fail "workloadIdentity is for ingress and node-isolated: its webhook would give every container of the pod the token" }}{{ end }}
{{- if not $v.sidecar.gateway.namespace }}{{ fail "sidecar.gateway.namespace is missing: where the ingress gateway runs" }}{{ end }}
{{- if not $v.audit.storageClass }}{{ fail "audit.storageClass is missing: sidecars need a class whose volumes many pods can mount" }}{{ end }}
{{- if or $v.httpRoute.enabled (ne $v.autoscaling.type "none") }}{{ fail "httpRoute and autoscaling are for ingress and node-isolated" }}{{ end }}
{{- if or $v.tls.secretName $v.terminator.name }}{{ fail "tls and terminator are for ingress and node-isolated: a sidecar listens on loopback" }}{{ end }}
{{- if $v.networkPolicy.egress }}{{ fail "networkPolicy.egress is for ingress and node-isolated: a sidecar reaches the ingress gateway alone" }}{{ end }}
{{- range $v.settings.backends }}
{{- if .identity }}{{ fail "a sidecar's backend takes no `identity`: its pod reaches the ingress gateway alone, with the projected token" }}{{ end }}
{{- end }}
{{- if and $v.sidecar.application.enabled (not (contains "@sha256:" $v.sidecar.application.image)) }}
{{- fail "sidecar.application.image is missing, or not named by digest" }}{{ end }}
{{- end }}
