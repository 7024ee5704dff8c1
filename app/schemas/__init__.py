"""The structs of docs/openapi.yaml, named as there, one file a resource."""
