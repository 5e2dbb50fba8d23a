# bao agent -config=approle.hcl
vault {
  address = "https://bao.example.com:8200"
  retry {
    num_retries = 12
  }
}

auto_auth {
  method {
    type = "approle"
    config = {
      role_id_file_path                   = "/etc/leasehold/role-id"
      secret_id_file_path                 = "/etc/leasehold/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

template_config {
  # Leases are renewed; what cannot be renewed is read anew.
  static_secret_render_interval = "5m"
  # A database that is away is waited for; the file stays as it is.
  exit_on_retry_failure = false
}

template {
  destination = "/run/leasehold/database.env"
  perms       = "0600"
  contents    = <<EOT
{{ with secret "database/creds/app" -}}
DB_USERNAME={{ .Data.username }}
DB_PASSWORD={{ .Data.password }}
{{ end -}}
EOT
}
