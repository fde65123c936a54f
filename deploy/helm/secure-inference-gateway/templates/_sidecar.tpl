{{/*
For an application's own chart, with this one as a dependency (alias it `gateway`, set its mode to `sidecar` and its
`sidecar.application.enabled` to false), in a pod template:

  spec:
    automountServiceAccountToken: false
    securityContext: fsGroup 10001, as in secure-inference-gateway.podSecurity
    initContainers:
      {{- include "secure-inference-gateway.sidecar.containers" .Subcharts.gateway | nindent 6 }}
    volumes:
      {{- include "secure-inference-gateway.sidecar.volumes" .Subcharts.gateway | nindent 6 }}

The pod carries the labels of "secure-inference-gateway.sidecar.labels": the NetworkPolicy holds it by them.
*/}}
{{- define "secure-inference-gateway.sidecar.containers" -}}
{{- include "secure-inference-gateway.refusals" . -}}
- {{ include "secure-inference-gateway.container" . | trim | nindent 2 | trim }}
  # A native sidecar: it is ready before the application starts and ends after it.
  restartPolicy: Always
{{- end }}

{{- define "secure-inference-gateway.sidecar.volumes" -}}
{{ include "secure-inference-gateway.volumes" . | trim }}
- name: gateway-audit
  persistentVolumeClaim: {claimName: {{ include "secure-inference-gateway.fullname" . }}-audit}
{{- end }}

{{- define "secure-inference-gateway.sidecar.labels" -}}
{{ include "secure-inference-gateway.gatewaySelector" . }}
{{- end }}
