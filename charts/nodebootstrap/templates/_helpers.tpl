{{/* Names are fixed: the operator's ClusterRoleBindings and its CRD are there once in a cluster, and so is the operator. */}}

{{/* The labels of config/, and those that Helm recommends. */}}
{{- define "nodebootstrap.labels" -}}
app.kubernetes.io/name: nodebootstrap
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The same without those that change with the release: selectors cannot be changed. */}}
{{- define "nodebootstrap.selector" -}}
app.kubernetes.io/name: nodebootstrap
app.kubernetes.io/component: manager
{{- end }}

{{/*
A file of files/, which make manifests copies from config/: with the labels, for the namespace of the release, and with
further labels and annotations. Its argument is a list of the root, the file's name, and a dict of labels and annotations.
*/}}
{{- define "nodebootstrap.file" -}}
{{- $root := index . 0 }}
{{- $annotations := (index . 2).annotations }}
{{- $labels := (index . 2).labels | default dict }}
{{- $namespace := $root.Release.Namespace }}
{{- $content := $root.Files.Get (printf "files/%s" (index . 1)) | replace "namespace: nodebootstrap-system" (printf "namespace: %s" $namespace) }}
{{- $content = $content | replace "system:serviceaccount:nodebootstrap-system:" (printf "system:serviceaccount:%s:" $namespace) }}
{{- $content = $content | replace "request.namespace == \"nodebootstrap-system\"" (printf "request.namespace == %q" $namespace) }}
{{- range splitList "\n---\n" (printf "\n%s" $content) }}
{{- $object := fromYaml . }}
{{- if $object }}
{{- $_ := set $object.metadata "labels" (merge (deepCopy $labels) (include "nodebootstrap.labels" $root | fromYaml) ($object.metadata.labels | default dict)) }}
{{- if $annotations }}
{{- $_ := set $object.metadata "annotations" (merge $annotations ($object.metadata.annotations | default dict)) }}
{{- end }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}
{{- end }}
