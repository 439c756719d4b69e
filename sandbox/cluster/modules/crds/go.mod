module mlflow-stack.local/crds

go 1.26.0

// Nothing is built of these: each carries the definitions of its own resources.
require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/openshift/api v0.0.0-20260116192047-6fb7fdae95fd
	sigs.k8s.io/gateway-api v1.6.1
)
