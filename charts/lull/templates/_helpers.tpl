{{- define "lull.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "lull" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-lull" (.Release.Name | trunc 35 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "lull.image" -}}
{{- with .Values.image -}}
{{- with .registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Labels that select; they never change. Called with (list $ component). */}}
{{- define "lull.selector" -}}
app.kubernetes.io/name: lull
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/*
Labels of an object: the users' own first, so that they never replace those that others go by.
Called with (list $ component), and labels of users for this object alone where there are some.
*/}}
{{- define "lull.labels" -}}
{{- $root := index . 0 -}}
{{- $labels := deepCopy $root.Values.commonLabels -}}
{{- if gt (len .) 2 -}}
{{- $labels = mergeOverwrite $labels (index . 2) -}}
{{- end -}}
{{- $labels = mergeOverwrite $labels (include "lull.selector" . | fromYaml) -}}
{{- $_ := set $labels "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "lull" -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
{{- toYaml $labels -}}
{{- end -}}

{{/*
Metadata of an object of the release. Called with (list $ component suffix), and a dict where the object is special:
`namespace` (empty for one of the cluster), `annotations` and `labels`. The suffix follows the release in its name.
*/}}
{{- define "lull.metadata" -}}
{{- $root := index . 0 -}}
{{- $special := dict -}}
{{- if gt (len .) 3 -}}
{{- $special = index . 3 -}}
{{- end -}}
name: {{ include "lull.fullname" $root }}{{ with index . 2 }}-{{ . }}{{ end }}
{{- with ternary (get $special "namespace") $root.Release.Namespace (hasKey $special "namespace") }}
namespace: {{ . }}
{{- end }}
labels:
  {{- include "lull.labels" (list $root (index . 1) (get $special "labels" | default dict)) | nindent 2 }}
{{- with mergeOverwrite (deepCopy $root.Values.commonAnnotations) (get $special "annotations" | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Namespace that Lull is limited to; empty for the whole cluster. */}}
{{- define "lull.watchNamespace" -}}
{{- if eq .Values.rbac.scope "namespaced" -}}
{{- .Values.rbac.watchNamespace | default .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{/* Base URL for clients. */}}
{{- define "lull.gatewayUrl" -}}
{{- with .Values.gateway -}}
{{- .url | default (printf "http://%s-gateway.%s.svc%s/v1" (include "lull.fullname" $) $.Release.Namespace (ternary "" (printf ":%v" .service.port) (eq (int .service.port) 80))) -}}
{{- end -}}
{{- end -}}

{{/* Secret that holds the clients' keys. */}}
{{- define "lull.keysSecret" -}}
{{- .Values.gateway.keys.secret | default (printf "%s-gateway-keys" (include "lull.fullname" .)) -}}
{{- end -}}

{{- define "lull.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end -}}

{{- define "lull.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "lull.commonEnv" -}}
- name: LULL_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: LULL_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: LULL_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{- with include "lull.watchNamespace" . }}
- name: LULL_WATCH_NAMESPACE
  value: {{ . }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of a component's pods. Called with (list $ component values). */}}
{{- define "lull.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
labels:
  {{- include "lull.labels" (list $root (index . 1) $values.podLabels) | nindent 2 }}
{{- with mergeOverwrite (deepCopy $root.Values.commonAnnotations) $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What both Deployments' pods have in common. Called with (list $ component values). */}}
{{- define "lull.placement" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with $values.affinity }}
affinity:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "lull.selector" (list $root (index $ 1)) | fromYaml)) }}
topologySpreadConstraints:
{{- range . }}
{{- list (merge (deepCopy .) $selector) | toYaml | nindent 0 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A quantity so many times. Called with (list quantity times). */}}
{{- define "lull.times" -}}
{{- $quantity := toString (index . 0) -}}
{{- $number := regexFind "^[0-9.]+" $quantity -}}
{{- printf "%v%s" (mulf (float64 $number) (index . 1)) (trimPrefix $number $quantity) | quote -}}
{{- end -}}

{{- define "lull.probes" -}}
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
livenessProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/*
What the operator may do to LLMDeployments and to what they own, in the namespaces that it serves. Every verb is one
that it uses: tests/integration/test_rights.py reads so in an API server's audit log.
*/}}
{{- define "lull.operatorRules" -}}
- apiGroups: [lull.dev]
  resources: [llmdeployments]
  verbs: [list, watch]
- apiGroups: [lull.dev]
  resources: [llmdeployments/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  # One whose engine does not wake up from sleep mode is deleted.
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [""]
  # The condition by which gateways know that an engine sleeps.
  resources: [pods/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- if eq .Values.rbac.scope "cluster" }}
# What nodes have, and whether a pool fits any. Nodes are the cluster's: Lull for one namespace does without.
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
{{- end }}
{{- end -}}

{{- define "lull.gatewayRules" -}}
- apiGroups: [lull.dev]
  resources: [llmdeployments]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- if eq .Values.rbac.scope "cluster" }}
# Which nodes are about to go. Nodes are the cluster's: Lull for one namespace learns of it when pods are deleted.
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
{{- end }}
{{- end -}}

{{/* Account, role and binding of one component. Called with (list $ component rules). */}}
{{- define "lull.access" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $name := printf "%s-%s" (include "lull.fullname" $root) $component -}}
{{- $served := dict "namespace" (include "lull.watchNamespace" $root) -}}
{{- $kind := ternary "Role" "ClusterRole" (eq $root.Values.rbac.scope "namespaced") -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "lull.metadata" (list $root $component $component) | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  {{- include "lull.metadata" (list $root $component $component $served) | nindent 2 }}
rules:
{{ index . 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  {{- include "lull.metadata" (list $root $component $component $served) | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
- kind: ServiceAccount
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
{{- end -}}

{{/* Prometheus as a NetworkPolicy peer, the same one that may reach the engines. */}}
{{- define "lull.prometheus" -}}
- namespaceSelector:
    matchLabels:
      lull.dev/monitoring: "true"
  podSelector:
    matchLabels:
      app.kubernetes.io/name: prometheus
{{- end -}}
