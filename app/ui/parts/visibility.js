/** Whether somebody sees the page: a hidden tab should not keep a connection. */

/**
 * Call `leave` when the page has been hidden for some seconds, and `comeBack` when it is seen
 * again after that. A page that is opened in a hidden tab counts as hidden from then on.
 */
export function watchVisibility(seconds, leave, comeBack) {
  let timer;
  let hasLeft = false;

  function look() {
    clearTimeout(timer);
    if (document.hidden) {
      timer = setTimeout(() => {
        hasLeft = true;
        leave();
      }, seconds * 1000);
    } else if (hasLeft) {
      hasLeft = false;
      comeBack();
    }
  }

  document.addEventListener("visibilitychange", look);
  look();
}
