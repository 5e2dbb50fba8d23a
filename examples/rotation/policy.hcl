# All that the job needs: it starts changes, and reads when the last one was. It sees no password of a connection; with
# static-creds it proves that what is handed out opens the account: leave that out, and VERIFY=0, if it must not.
path "database/rotate-root/*" {
  capabilities = ["create", "update"]
}
path "database/rotate-role/*" {
  capabilities = ["create", "update"]
}
path "database/static-roles/*" {
  capabilities = ["read"]
}
path "database/static-creds/*" {
  capabilities = ["read"]
}
path "database/status/*" {
  capabilities = ["read"]
}
