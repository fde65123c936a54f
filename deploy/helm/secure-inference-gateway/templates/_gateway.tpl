{{/* The gateway's container, the same in every mode. `root` is the chart's context, `name` the container's. */}}
{{- define "secure-inference-gateway.container" -}}
{{- $v := .Values }}
{{- $sidecar := eq $v.mode "sidecar" }}
name: gateway
image: {{ include "secure-inference-gateway.image" . }}
imagePullPolicy: {{ $v.image.pullPolicy }}
args: [serve, -c, /etc/gateway/gateway.toml]
env:
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  # One process, one log: the pod's name is part of the instance, the directory and the origin. Variables are expanded by the kubelet.
  - name: GATEWAY__SERVER__INSTANCE
    value: $(POD_NAME)
  - name: GATEWAY__AUDIT__DIRECTORY
    value: /var/lib/gateway/$(POD_NAME)/audit
  - name: GATEWAY__AUDIT__ORIGIN
    value: {{ $v.audit.origin }}/$(POD_NAME)
ports:
  {{- if not $sidecar }}
  - {name: data, containerPort: {{ include "secure-inference-gateway.dataPort" . }}}
  {{- end }}
  - {name: ops, containerPort: 9090}
startupProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 2
  timeoutSeconds: 2
resources: {{- toYaml $v.resources | nindent 2 }}
securityContext: {{- include "secure-inference-gateway.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: gateway-settings, mountPath: /etc/gateway/gateway.toml, subPath: gateway.toml, readOnly: true}
  - {name: gateway-policies, mountPath: /etc/gateway/policies, readOnly: true}
  {{- if $v.policies.invariants }}
  - {name: gateway-settings, mountPath: /etc/gateway/invariants.toml, subPath: invariants.toml, readOnly: true}
  {{- end }}
  {{- if $v.tls.secretName }}
  - {name: gateway-tls, mountPath: /etc/gateway/tls, readOnly: true}
  {{- end }}
  {{- if $v.secrets.csi.enabled }}
  - {name: gateway-vault, mountPath: /mnt/secrets, readOnly: true}
  {{- end }}
  {{- range $at, $secret := $v.secrets.existing }}
  - {name: gateway-secret-{{ $at }}, mountPath: {{ $secret.mountPath }}, readOnly: true}
  {{- end }}
  {{- if and $sidecar $v.sidecar.gateway.tokenAudience }}
  - {name: gateway-token, mountPath: /var/run/secrets/gateway, readOnly: true}
  {{- end }}
  - {name: gateway-audit, mountPath: /var/lib/gateway}
  - {name: gateway-temporary, mountPath: /tmp}
{{- end }}

{{- define "secure-inference-gateway.containerSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "secure-inference-gateway.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The volumes the container mounts, without the audit log's own, which is a claim of the workload. */}}
{{- define "secure-inference-gateway.volumes" -}}
{{- $v := .Values }}
{{- $fullname := include "secure-inference-gateway.fullname" . }}
- name: gateway-settings
  configMap: {name: {{ $fullname }}, defaultMode: 0444}
- name: gateway-policies
  {{- if $v.policies.image }}
  image: {reference: {{ $v.policies.image }}, pullPolicy: {{ $v.image.pullPolicy }}}
  {{- else }}
  configMap:
    name: {{ default (printf "%s-policies" $fullname) $v.policies.configMap }}
    defaultMode: 0444
    items:
      {{- range (empty $v.policies.configMap | ternary (keys $v.policies.files | sortAlpha) $v.policies.configMapFiles) }}
      - {key: {{ . | replace "/" ".." }}, path: {{ . }}}
      {{- end }}
  {{- end }}
{{- if $v.tls.secretName }}
- name: gateway-tls
  secret: {secretName: {{ $v.tls.secretName }}, defaultMode: 0440}
{{- end }}
{{- if $v.secrets.csi.enabled }}
- name: gateway-vault
  csi:
    driver: secrets-store.csi.k8s.io
    readOnly: true
    volumeAttributes: {secretProviderClass: {{ $fullname }}}
{{- end }}
{{- range $at, $secret := $v.secrets.existing }}
- name: gateway-secret-{{ $at }}
  secret: {secretName: {{ $secret.name }}, defaultMode: 0440}
{{- end }}
{{- if and (eq $v.mode "sidecar") $v.sidecar.gateway.tokenAudience }}
- name: gateway-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, audience: {{ $v.sidecar.gateway.tokenAudience | quote }}, expirationSeconds: 3600}
{{- end }}
- name: gateway-temporary
  emptyDir: {sizeLimit: 256Mi}
{{- end }}

{{/* What makes pods start anew when what they read only once has changed. Policies are watched and need no restart. */}}
{{- define "secure-inference-gateway.podAnnotations" -}}
checksum/settings: {{ include "secure-inference-gateway.toml" . | sha256sum }}
checksum/invariants: {{ .Values.policies.invariants | sha256sum }}
{{- end }}
