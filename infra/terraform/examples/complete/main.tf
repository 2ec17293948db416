# Tokens of an identity provider, a queue for small writes, own keys, alarms that tell somebody, and the container for
# native gRPC. The ARNs and ids are made up.
provider "aws" {
  region = "eu-central-1"
}

module "esker" {
  source = "../.."

  name        = "notes"
  prefix      = "esker"
  kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/6f0b8a52-8ad0-4d7e-9a62-0d5a0c3d2f10"

  ingest    = { concurrency = 20 }
  query     = { memory = 2048, concurrency = 50 }
  compactor = { memory = 4096, concurrency = 2 }

  jwt = {
    issuer   = "https://login.example.org/"
    audience = ["https://notes.example.org"]
  }
  cors_origins = ["https://notes.example.org"]
  throttle     = { rate = 200, burst = 400 }

  queue        = true
  log_days     = 90
  alarm_topics = ["arn:aws:sns:eu-central-1:123456789012:on-call"]
  runbooks     = "https://wiki.example.org/esker/runbook"

  service = {
    image           = "public.ecr.aws/example/esker:1"
    vpc_id          = "vpc-0a1b2c3d4e5f60718"
    subnets         = ["subnet-0a1b2c3d4e5f60718", "subnet-0a1b2c3d4e5f60719"]
    public_subnets  = ["subnet-0a1b2c3d4e5f6071a", "subnet-0a1b2c3d4e5f6071b"]
    certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/0f7f6a55-21ce-4b9a-8d68-2c9e3a7d7f10"
    keys_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:esker-keys-AbCdEf"
    clients         = ["10.0.0.0/8"]
  }

  tags = { team = "notes" }
}

output "url" {
  description = "Where HTTP is answered."
  value       = module.esker.url
}

output "grpc_host" {
  description = "Where gRPC is served, on port 443."
  value       = module.esker.grpc_host
}
