# bao agent -config=exec.hcl: the application runs below the agent, and anew with each new credential.
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

env_template "DB_USERNAME" {
  contents             = "{{ with secret \"database/creds/app\" }}{{ .Data.username }}{{ end }}"
  error_on_missing_key = true
}

env_template "DB_PASSWORD" {
  contents             = "{{ with secret \"database/creds/app\" }}{{ .Data.password }}{{ end }}"
  error_on_missing_key = true
}

exec {
  command                   = ["/usr/local/bin/app"]
  restart_on_secret_changes = "always"
  restart_stop_signal       = "SIGTERM"
}
