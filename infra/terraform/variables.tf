variable "name" {
  description = "What everything is called, or begins with."
  type        = string
  default     = "esker"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "A name is a small letter and 1 to 30 more of a-z, 0-9 and -."
  }
}

variable "bucket" {
  description = "Name of the bucket; it is made. Unset: NAME-ACCOUNT-REGION."
  type        = string
  default     = null
}

variable "prefix" {
  description = "Prefix of all keys in the bucket, without slashes at its ends. Empty: none."
  type        = string
  default     = ""

  validation {
    condition     = !startswith(var.prefix, "/") && !endswith(var.prefix, "/")
    error_message = "The prefix has no slash at its ends."
  }
}

variable "force_destroy" {
  description = "Whether `terraform destroy` deletes the data too. Otherwise it stops at a bucket that is not empty."
  type        = bool
  default     = false
}

variable "kms_key_arn" {
  description = "KMS key for the bucket, the queues and the logs; its policy must let these services use it. Unset: keys of the services themselves."
  type        = string
  default     = null
}

variable "packages" {
  description = "Folder with ingest.zip, query.zip and compactor.zip, as infra/package.sh makes them. Unset: target/lambda/ARCHITECTURE of this repository."
  type        = string
  default     = null
}

variable "architecture" {
  description = "arm64 or x86_64: what the packages were built for."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "The architecture is arm64 or x86_64."
  }
}

variable "ingest" {
  description = "Size of the ingest function: memory in MB, timeout in s (the gateway waits for 30), most at once (-1: what the account has)."
  type = object({
    memory      = optional(number, 512)
    timeout     = optional(number, 29)
    concurrency = optional(number, -1)
  })
  default = {}
}

variable "query" {
  description = "Size of the query function: memory in MB, timeout in s (the gateway waits for 30), most at once (-1: what the account has)."
  type = object({
    memory      = optional(number, 1024)
    timeout     = optional(number, 29)
    concurrency = optional(number, -1)
  })
  default = {}
}

variable "compactor" {
  description = "Size of the compactor function: memory and disk in MB, timeout in s, most at once (-1: what the account has)."
  type = object({
    memory      = optional(number, 2048)
    disk        = optional(number, 4096)
    timeout     = optional(number, 900)
    concurrency = optional(number, -1)
  })
  default = {}
}

variable "environment" {
  description = "More environment variables of all functions, such as ESKER_LOG."
  type        = map(string)
  default     = {}
}

variable "jwt" {
  description = "Who may call: tokens of this issuer for one of these audiences, with the scope that a route needs. Unset: requests signed by AWS credentials that may execute-api:Invoke."
  type = object({
    issuer      = string
    audience    = list(string)
    read_scope  = optional(string, "esker/read")
    write_scope = optional(string, "esker/write")
    admin_scope = optional(string, "esker/admin")
  })
  default = null
}

variable "cors_origins" {
  description = "Origins whose pages may call from a browser."
  type        = list(string)
  default     = []
}

variable "throttle" {
  description = "Requests a second that the gateway lets through, all callers together, and how many at once above it."
  type = object({
    rate  = optional(number, 100)
    burst = optional(number, 200)
  })
  default = {}
}

variable "tick" {
  description = "When the compactor folds what is left in logs, however short, makes a step of each merge that is made in steps, and collects garbage. Unset: never."
  type        = string
  default     = "rate(1 day)"
}

variable "queue" {
  description = "Whether there is a queue for writes. Its mapping asks the queue all the time, also while nobody writes."
  type        = bool
  default     = false
}

variable "log_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 30
}

variable "alarm_topics" {
  description = "ARNs of SNS topics that are told of alarms."
  type        = list(string)
  default     = []
}

variable "runbooks" {
  description = "Where the runbook pages are: the description of each alarm links to its own."
  type        = string
  default     = "docs/operations/runbook"
}

variable "service" {
  description = "A long-lived container for native gRPC beside the functions, which is paid while it runs. keys_secret_arn: a secret whose text is a file of keys (docs/operations/keys.md). The image has `esker` and `sh` on its PATH."
  type = object({
    image           = string
    vpc_id          = string
    subnets         = list(string)
    public_subnets  = list(string)
    certificate_arn = string
    keys_secret_arn = string
    clients         = optional(list(string), [])
    cpu             = optional(number, 1024)
    memory          = optional(number, 4096)
    count           = optional(number, 1)
  })
  default = null
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
