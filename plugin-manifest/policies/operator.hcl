# A platform engineer: connections and roles, but no credentials.
# Replace `database`.

path "database/config" {
  capabilities = ["list"]
}

path "database/config/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

path "database/reset/*" {
  capabilities = ["create", "update"]
}

path "database/reload/*" {
  capabilities = ["create", "update"]
}

path "database/roles" {
  capabilities = ["list"]
}

path "database/roles/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

path "database/static-roles" {
  capabilities = ["list"]
}

path "database/static-roles/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

# To see and end what is out.
path "sys/leases/lookup/database/*" {
  capabilities = ["list", "sudo"]
}

path "sys/leases/lookup" {
  capabilities = ["update"]
}

path "sys/leases/revoke" {
  capabilities = ["update"]
}

path "sys/leases/revoke-prefix/database/*" {
  capabilities = ["update", "sudo"]
}

# Said once more, so that no wider policy of the same token opens it by accident.
path "database/creds/*" {
  capabilities = ["deny"]
}

path "database/static-creds/*" {
  capabilities = ["deny"]
}
