# All that a sidecar needs: the credentials of one role. A token may always renew what it was given itself,
# by the default policy.
path "database/creds/app" {
  capabilities = ["read"]
}
