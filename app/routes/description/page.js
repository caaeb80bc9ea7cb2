// Shows the description of this gateway. Every address is relative, so that a prefix may be before it.
SwaggerUIBundle({
  url: "openapi.json",
  domNode: document.getElementById("description"),
  deepLinking: true,
  validatorUrl: null, // no other host learns of this gateway
});
