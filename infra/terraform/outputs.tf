output "url" {
  description = "Where HTTP is answered."
  value       = aws_apigatewayv2_api.this.api_endpoint
}

output "store" {
  description = "The store, as `esker --store` takes it."
  value       = local.store
}

output "bucket" {
  description = "Name of the bucket."
  value       = aws_s3_bucket.store.bucket
}

output "functions" {
  description = "Names of the functions: ingest, query, compactor."
  value       = { for name, function in aws_lambda_function.this : name => function.function_name }
}

output "roles" {
  description = "ARNs of the functions' roles, for the policy of a KMS key."
  value       = { for name, role in aws_iam_role.function : name => role.arn }
}

output "queue_url" {
  description = "The queue for writes; null without one."
  value       = one(aws_sqs_queue.writes[*].url)
}

output "dead_letters_url" {
  description = "The queue of what was given up."
  value       = aws_sqs_queue.dead_letters.url
}

output "dashboard" {
  description = "Name of the CloudWatch dashboard."
  value       = aws_cloudwatch_dashboard.this.dashboard_name
}

output "grpc_host" {
  description = "Host of the container's load balancer, where gRPC is served on port 443; null without one."
  value       = one(aws_lb.service[*].dns_name)
}
