# The routes of docs/http.md: reads go to query, writes to ingest, a compaction by hand to the compactor. A route that is not in this table is 404 here.
# DELETE of records goes to query, which finds what a filter means and has ingest write the tombstones.
locals {
  routes = {
    "GET /healthz"                                             = ["query", "read"]
    "POST /v1/collections"                                     = ["ingest", "admin"]
    "GET /v1/collections"                                      = ["query", "read"]
    "GET /v1/collections/{collection}"                         = ["query", "read"]
    "DELETE /v1/collections/{collection}"                      = ["ingest", "admin"]
    "GET /v1/collections/{collection}/stats"                   = ["query", "read"]
    "POST /v1/collections/{collection}/records"                = ["ingest", "write"]
    "PATCH /v1/collections/{collection}/records"               = ["ingest", "write"]
    "DELETE /v1/collections/{collection}/records"              = ["query", "write"]
    "POST /v1/collections/{collection}/uploads"                = ["ingest", "write"]
    "POST /v1/collections/{collection}/uploads/{token}/commit" = ["ingest", "write"]
    "GET /v1/collections/{collection}/records/{id}"            = ["query", "read"]
    "POST /v1/collections/{collection}/records/get"            = ["query", "read"]
    "POST /v1/collections/{collection}/records/scan"           = ["query", "read"]
    "POST /v1/collections/{collection}/records/count"          = ["query", "read"]
    "POST /v1/collections/{collection}/search"                 = ["query", "read"]
    "POST /v1/collections/{collection}/warm"                   = ["query", "read"]
    "POST /v1/collections/{collection}/compact"                = ["compactor", "write"]
    "POST /v1/sql"                                             = ["query", "read"]
    "POST /esker.v1.Ingest/CreateCollection"                   = ["ingest", "admin"]
    "POST /esker.v1.Ingest/DropCollection"                     = ["ingest", "admin"]
    "POST /esker.v1.Ingest/Upsert"                             = ["ingest", "write"]
    "POST /esker.v1.Ingest/Patch"                              = ["ingest", "write"]
    "POST /esker.v1.Ingest/Delete"                             = ["ingest", "write"]
    "POST /esker.v1.Query/ListCollections"                     = ["query", "read"]
    "POST /esker.v1.Query/DescribeCollection"                  = ["query", "read"]
    "POST /esker.v1.Query/Stats"                               = ["query", "read"]
    "POST /esker.v1.Query/Get"                                 = ["query", "read"]
    "POST /esker.v1.Query/GetMany"                             = ["query", "read"]
    "POST /esker.v1.Query/Scan"                                = ["query", "read"]
    "POST /esker.v1.Query/Count"                               = ["query", "read"]
    "POST /esker.v1.Query/Search"                              = ["query", "read"]
    "POST /esker.v1.Query/SearchStream"                        = ["query", "read"]
    "POST /esker.v1.Query/Sql"                                 = ["query", "read"]
    "POST /esker.v1.Query/Warm"                                = ["query", "read"]
    "POST /esker.v1.Query/DeleteByFilter"                      = ["query", "write"]
  }

  scopes = var.jwt == null ? {} : {
    read  = [var.jwt.read_scope, var.jwt.write_scope, var.jwt.admin_scope]
    write = [var.jwt.write_scope, var.jwt.admin_scope]
    admin = [var.jwt.admin_scope]
  }
}

resource "aws_apigatewayv2_api" "this" {
  name          = var.name
  description   = "Esker"
  protocol_type = "HTTP"
  tags          = var.tags

  dynamic "cors_configuration" {
    for_each = length(var.cors_origins) > 0 ? [var.cors_origins] : []

    content {
      allow_origins = cors_configuration.value
      allow_methods = ["GET", "POST", "PATCH", "DELETE"]
      allow_headers = [
        "authorization", "content-type", "idempotency-key", "x-request-id", "x-esker-timeout-ms", "x-grpc-web",
        "x-user-agent", "grpc-timeout",
      ]
      expose_headers = ["x-request-id", "retry-after", "grpc-status", "grpc-message"]
      max_age        = 600
    }
  }
}

resource "aws_apigatewayv2_authorizer" "jwt" {
  count            = var.jwt == null ? 0 : 1
  api_id           = aws_apigatewayv2_api.this.id
  name             = "${var.name}-jwt"
  authorizer_type  = "JWT"
  identity_sources = ["$request.header.Authorization"]

  jwt_configuration {
    issuer   = var.jwt.issuer
    audience = var.jwt.audience
  }
}

resource "aws_apigatewayv2_integration" "function" {
  for_each               = local.functions
  api_id                 = aws_apigatewayv2_api.this.id
  integration_type       = "AWS_PROXY"
  integration_method     = "POST"
  integration_uri        = aws_lambda_function.this[each.key].invoke_arn
  payload_format_version = "2.0"
  timeout_milliseconds   = 30000
}

# There is no route without an authoriser.
resource "aws_apigatewayv2_route" "this" {
  for_each             = local.routes
  api_id               = aws_apigatewayv2_api.this.id
  route_key            = each.key
  target               = "integrations/${aws_apigatewayv2_integration.function[each.value[0]].id}"
  authorization_type   = var.jwt == null ? "AWS_IAM" : "JWT"
  authorizer_id        = var.jwt == null ? null : aws_apigatewayv2_authorizer.jwt[0].id
  authorization_scopes = var.jwt == null ? null : local.scopes[each.value[1]]
}

resource "aws_cloudwatch_log_group" "gateway" {
  #checkov:skip=CKV_AWS_338:Retention is log_days; a year of request logs is the account's to want
  name              = "/aws/apigateway/${var.name}"
  retention_in_days = var.log_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}

resource "aws_apigatewayv2_stage" "default" {
  api_id      = aws_apigatewayv2_api.this.id
  name        = "$default"
  auto_deploy = true
  tags        = var.tags

  default_route_settings {
    throttling_rate_limit    = var.throttle.rate
    throttling_burst_limit   = var.throttle.burst
    detailed_metrics_enabled = true
  }

  # Neither query strings nor bodies nor headers.
  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.gateway.arn
    format = jsonencode({
      requestId = "$context.requestId"
      time      = "$context.requestTimeEpoch"
      route     = "$context.routeKey"
      status    = "$context.status"
      error     = "$context.error.message"
      latency   = "$context.responseLatency"
      length    = "$context.responseLength"
      caller    = var.jwt == null ? "$context.identity.userArn" : "$context.authorizer.claims.sub"
    })
  }
}

resource "aws_lambda_permission" "gateway" {
  for_each      = local.functions
  statement_id  = "gateway"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this[each.key].function_name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.this.execution_arn}/*/*"
}
