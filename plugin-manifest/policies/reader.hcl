# An application: reads credentials of one role, and keeps or gives back its own leases.
# Replace `database` and `my-role`.

path "database/creds/my-role" {
  capabilities = ["read"]
}

path "database/static-creds/my-role" {
  capabilities = ["read"]
}

# Whoever holds a lease id may renew and revoke it.
path "sys/leases/renew" {
  capabilities = ["update"]
}

path "sys/leases/revoke" {
  capabilities = ["update"]
}
