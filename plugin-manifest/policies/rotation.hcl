# A rotation job: changes passwords, sees none.
# Replace `database`.

path "database/rotate-root/*" {
  capabilities = ["create", "update"]
}

path "database/rotate-role/*" {
  capabilities = ["create", "update"]
}

path "database/static-roles" {
  capabilities = ["list"]
}
